"""The way of batches that requests join or leave one by one, as most do that repeat none.

It tells what the long way tells of them, at once: their result, their launch and what became of
their requests are one piece. All else takes the long way: where requests wait, or a prompt takes
several batches, one was preempted, or its KV cache comes from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.records import WORD, Launched
from voltana_ring.layout import Change, Mode
from voltana_vllm.hooks.followed import Told, last_token_s, rooms_of
from voltana_vllm.hooks.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_ring.hooks.cached_share import CachedShare
    from voltana_ring.hooks.records import Records
    from voltana_vllm.hooks.batch_view import BatchView
    from voltana_vllm.hooks.followed import Followed
    from voltana_vllm.hooks.queue_view import QueueReader

_NAN = float("nan")
_WAITS, _FIRST, _JOINED, _ENDED, _ABORTED = map(
    int, (Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED, Change.ABORTED)
)
_PREFILL, _DECODE, _MIXED = map(int, (Mode.PREFILL, Mode.DECODE, Mode.MIXED))

MOST_MOVES = 8
"""Requests that come, join and leave with one batch, and first tokens of the one before; more take
the long way, for there are few such batches, and all of it has to fit into one slot."""


class Moves(Runs):
    """Hooks that tell such batches; another class tells all others, and makes what is read here."""

    _batch: BatchView
    _followed: Followed
    _queue: QueueReader
    _cached: CachedShare
    _records: Records
    _wall_s: Callable[[], float]
    _flags: int
    _counted: int
    _due_s: float

    def _move(self, output: Any, *, same: bool, left: bool) -> bool:
        """Tell a batch that is launched, and the result before, if it is such a one.

        Args:
            output: What was scheduled.
            same: Whether it decodes the same requests as the one before nevertheless.
            left: Whether it comes behind a run.

        Returns:
            Whether it is; nothing was done else.
        """
        new, batch = output.scheduled_new_reqs, self._batch
        size = len(output.num_scheduled_tokens) - len(new)
        tokens, pairs = self._prompts(output, size)
        if tokens < 0:
            return False
        if self._still > 0:
            batch.kv_tokens += self._still * (self.iterations - self._counted)
        number, ended, times_s, changed = self._ended(output.finished_req_ids)
        joined = self._joined(size)
        done: list[Told] = []
        came = self._came(new, done) if new else ()
        for told in came:
            joined += (hash(told.rid) & WORD, told.arrived_s, _WAITS, 0)
        oldest_s = min([told.arrived_s for told in done]) if new else _NAN
        self.iterations = self._counted = iteration = self.iterations + 1
        mode = _DECODE if not new else _MIXED if size else _PREFILL
        load, queue = (tokens, pairs, size, batch.kv_tokens), (0, 0, oldest_s)
        launch_s = self._due_s or self.now_s()
        launched = Launched(mode, self._flags, iteration, load, queue, launch_s, _NAN, done)
        alike = self._template if same and self._template else launched
        self._open[id(output)] = output, alike, iteration, launch_s
        rooms = rooms_of(came) if came else ()
        moment = self._records.moment(number, ended, times_s, changed, launched, joined, rooms)
        runs = not (same or new) and len(self._scheduler.running) == size
        if runs:
            self._still, self._template = size, launched
            self._newest = next(reversed(self._requests))
        elif not same:
            self._still = -1
        self._put(moment, iteration, runs=runs, left=left)
        return True

    def _prompts(self, output: Any, size: int) -> tuple[int, float]:
        """New prompt tokens of a batch and their query-key pairs; -1 where it is no such batch."""
        batch, rows, requests = self._batch, output.num_scheduled_tokens, self._requests
        new, gone, joining = output.scheduled_new_reqs, output.finished_req_ids, batch.joining
        if (
            not batch.exact
            or batch.prompts
            or len(self._untold) != 1
            or size != len(batch.decoding) - len(gone) + len(joining)
            or len(new) + len(gone) + len(joining) > MOST_MOVES
            or len(self._untold[0][0][1].done) > MOST_MOVES
            or output.scheduled_cached_reqs.resumed_req_ids
            or not self._queue.empty
            or self._followed.changes
            or not (gone <= batch.decoding and joining.keys() <= rows.keys())
            or next(reversed(requests)) not in rows
        ):
            return -1, 0.0
        for rid in gone:  # one that was preempted no longer knows what it had in the cache
            if not self._followed.known[rid].request.num_computed_tokens:
                return -1, 0.0
        tokens, pairs = 0, 0.0
        for one in new:
            count, request = rows[one.req_id], requests[one.req_id]
            if request.is_prefill_chunk or request.kv_transfer_params:
                return -1, 0.0
            tokens += count
            pairs += count * (request.num_computed_tokens - count) + count * (count + 1) / 2
        if output.total_num_scheduled_tokens != tokens + size:
            return -1, 0.0
        return tokens, pairs

    def _ended(
        self, gone: set[str]
    ) -> tuple[int, Launched, tuple[float, float, float], list[float]]:
        """The result that is there: its number, how it was launched, its times and changes."""
        (_, ended, number, began_s), ready_s = self._untold.pop()
        times_s = began_s, ready_s, ready_s - max(began_s, self._ready_s)
        self._ready_s = ready_s
        if ended.mode != _PREFILL:
            self._tokens_s = ready_s
        changed: list[float] = []
        for told in ended.done:
            first = told.first_s != told.first_s and not told.remote
            if first and told.request.num_output_tokens > 0:
                told.first_s = ready_s
                changed += (hash(told.rid) & WORD, ready_s, _FIRST, 1)
        if gone:
            batch, followed = self._batch, self._followed
            batch.decoding -= gone
            for rid in gone:
                told = followed.known.pop(rid)
                request = told.request
                batch.kv_tokens -= request.num_computed_tokens
                what = _ABORTED if int(request.status) in followed.aborted else _ENDED
                at_s = last_token_s(told, self._tokens_s, ready_s)
                changed += (hash(rid) & WORD, at_s, what, request.num_output_tokens)
        return number, ended, times_s, changed

    def _joined(self, size: int) -> list[float]:
        """Those that decode from now on, of a batch of `size`: their changes."""
        batch, joining = self._batch, self._batch.joining
        batch.kv_tokens += size - len(joining)
        changes: list[float] = []
        if joining:
            batch.decoding |= joining.keys()
            for rid, told in joining.items():
                batch.kv_tokens += told.request.num_computed_tokens
                if not told.joined:
                    told.joined = True
                    at_s = told.first_s if told.first_s == told.first_s else self.now_s()
                    changes += (hash(rid) & WORD, at_s, _JOINED, 0)
            joining.clear()
            self._followed.fresh.clear()
        return changes

    def _came(self, new: list[Any], worked_on: list[Told]) -> list[Told]:
        """Follow requests whose prompts are complete with this batch.

        Args:
            new: What is scheduled of them.
            worked_on: Where they go.

        Returns:
            Those that nothing was told of: they did not wait.
        """
        now_s, wall_s = self.now_s(), self._wall_s()
        known, fresh, joining = self._followed.known, self._followed.fresh, self._batch.joining
        found, seen, came = 0, 0, []
        for one in new:
            rid = one.req_id
            request, told = self._requests[rid], known.get(rid)
            if told is None:
                told = Told(rid, request, now_s - max(0.0, wall_s - request.arrival_time))
                known[rid] = told
                came.append(told)
            joining[rid] = fresh[rid] = told
            worked_on.append(told)
            found += one.num_computed_tokens
            seen += request.num_prompt_tokens
        self._cached.learn(found, seen)
        return came
