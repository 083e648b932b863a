"""Measures iterations: what each one computes, when it was launched, and how long it took."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.cached_share import CachedShare
from voltana_ring.hooks.queue_view import earlier
from voltana_ring.hooks.records import IDLE_EVERY_S, Launched, Records, idling
from voltana_ring.layout import MAX_ENTRIES, Flag, Kind, Mode
from voltana_vllm.hooks.batch_view import BatchView
from voltana_vllm.hooks.followed import Followed, Told, rooms_of
from voltana_vllm.hooks.moves import Moves
from voltana_vllm.hooks.queue_view import QueueReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voltana_ring.writer import RingWriter


_NAN = float("nan")
# Plain numbers cost less to pack, and what is in this module less to find.
_LAUNCHED, _FINISHED = int(Kind.LAUNCHED), int(Kind.FINISHED)
_log = logging.getLogger("vllm.voltana")

MOST_OPEN = 64
"""More batches than any engine has in flight; what is older never came back."""


class Meter(Moves):
    """Measures one scheduler; not thread-safe, as the scheduler is not.

    Latency is the time on the device: from the launch, or from the end of the iteration before
    where that was later, to the result (asynchronous scheduling launches the next batch while one
    runs). A launch is kept with its own scheduler output, for several are under way at once.

    Where the engine hands batches to other processes it has nothing to do from then on until a
    result comes, and asks its scheduler for grammars first: what there is to do at a launch but to
    note its time is done there.

    Args:
        scheduler: The scheduler.
        ring: Where records go.
        speculative: Whether an iteration may produce more than one token a request.
        statuses: vLLM's numbers of statuses.
        waits: Whether the engine waits for other processes, and says when it begins to: `asked`.
        now_s: The monotonic clock.
        wall_s: The wall's clock, by which vLLM notes arrivals.

    Attributes:
        now_s: The monotonic clock.
        errors: Errors so far; the hooks count them.
        due: What was scheduled and is still to be measured; None but between `scheduled` and
            `asked`.
    """

    def __init__(
        self,
        scheduler: Any,
        ring: RingWriter,
        *,
        speculative: bool,
        statuses: dict[str, int],
        waits: bool = False,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(scheduler, ring, now_s)
        self._records = Records(ring)
        self._flags = int(Flag.SPECULATIVE) if speculative else 0
        self._flags_cut = self._flags | int(Flag.CUT)
        self._followed = Followed(statuses)
        self._cached = CachedShare()
        listening = statuses["WAITING_FOR_STREAMING_REQ"]
        self._queue = QueueReader(scheduler, self._followed.known, self._cached, listening)
        stages = getattr(scheduler.vllm_config.parallel_config, "pipeline_parallel_size", 1)
        self._batch = BatchView(summed=speculative or stages > 1)
        self._wall_s = wall_s
        self._waits = waits
        self.due: Any = None
        self._due_s = 0.0  # when it was scheduled
        self._counted = 0  # the iteration up to which the batch's KV tokens are counted
        self._idle_s = 0.0
        self._lives = False
        self._doubtful = False  # whether ends of requests may have been missed
        self.errors = 0

    def _scheduled_other(self, output: Any) -> None:
        if self.due is not None:
            self.overdue()
        if self._waits and output.total_num_scheduled_tokens:
            self.due, self._due_s = output, self.now_s()
        else:
            self._measure(output)

    def asked(self) -> None:
        """The engine has handed the batch over: from here on it waits."""
        output, self.due = self.due, None
        self._measure(output)

    def overdue(self) -> None:
        """A batch was handed over and nothing was asked: measure it now, and others at once.

        Its requests may have changed since.
        """
        self._waits = False
        try:
            self.asked()
        finally:
            self._due_s = 0.0

    def _measure(self, output: Any) -> None:
        """Measure a batch, or nothing: by the short way if it may be."""
        left = self._first > 0
        self._leave_run()
        size, untold = len(output.num_scheduled_tokens), self._untold
        same = (
            size == self._still
            and output.total_num_scheduled_tokens == size
            and not output.finished_req_ids
            and not output.scheduled_new_reqs
            and not output.scheduled_cached_reqs.resumed_req_ids
            and next(reversed(self._requests)) is self._newest
        )
        if same and len(untold) == 1 and untold[0][0][1] is self._template:
            self._repeat(output, self._due_s or self.now_s())
        elif not (output.total_num_scheduled_tokens and self._move(output, same=same, left=left)):
            self._schedule_other(output, same=same, left=left)

    def _schedule_other(self, output: Any, *, same: bool, left: bool) -> None:
        """Note what may be another batch than the one before.

        Args:
            output: What was scheduled.
            same: Whether it decodes the same requests nevertheless.
            left: Whether it comes behind a run.
        """
        now_s = self.now_s()
        requests, followed, batch = self._requests, self._followed, self._batch
        if self._still > 0:
            batch.kv_tokens += self._still * (self.iterations - self._counted)
        self._counted = self.iterations
        self._still = self._still if same else -1
        finished = output.finished_req_ids
        if self._doubtful:
            self._doubtful, finished = False, finished | followed.gone(requests)
        self._end(finished, now_s)
        new = followed.arrivals(requests, now_s, self._wall_s)
        if not output.total_num_scheduled_tokens:
            self._scheduled_nothing(new, now_s)
            return
        batch.read(output, requests, followed.known)
        if output.scheduled_new_reqs:
            self._learn_cached(output)
        if followed.fresh or batch.remote:
            followed.decoding(output.num_scheduled_tokens, batch.remote, now_s)
        if batch.done:
            followed.prompts_done(batch.done)
        prefill_tokens = batch.prefill_tokens
        waiting, waiting_tokens, oldest_s, entries = self._queue.read(
            batch.prompts, detailed=prefill_tokens > 0
        )
        if batch.worked_on:
            oldest_s = _oldest(batch.worked_on, oldest_s)
        self.iterations = self._counted = iteration = self.iterations + 1
        self._idle_s = 0.0
        # What the hook takes is none of the iteration's time: it is stamped last.
        launch_s = self._due_s or self.now_s()
        launched = Launched(
            batch.mode,
            self._flags_cut if waiting > MAX_ENTRIES else self._flags,
            iteration,
            (prefill_tokens, batch.attended_pairs, batch.decode_requests, batch.kv_tokens),
            (waiting, waiting_tokens, oldest_s),
            launch_s,
            _NAN,
            batch.done,
        )
        if followed.changes:
            self._tell(launched, launch_s)
        self._records.write(
            _LAUNCHED, launched, launch_s, _NAN, _NAN, entries if prefill_tokens else (),
            rooms_of(new) if new else (), wakes=False,
        )  # fmt: skip
        if not (same or followed.fresh) and batch.settled:
            self._settle(launched)
        self._keep(output, self._template if same and self._template else launched, launched)
        self._put(self._records.take(), iteration, runs=self._template is launched, left=left)

    def _settle(self, launched: Launched) -> None:
        """From here on batches may be alike: all that there are decode."""
        if len(self._scheduler.running) == launched.load[2]:
            self._still = launched.load[2]
            self._newest = next(reversed(self._requests))
            self._template = launched

    def _updated_other(self, output: Any, ready_s: float) -> None:
        self._leave_run()
        found = self._open.pop(id(output), None)
        if found is None:
            return
        self._untold.append((found, ready_s))
        if not self._scheduler.running:
            self._tell_results(self._scheduler.finished_req_ids, wakes=True)

    def doubt(self) -> None:
        """Something went wrong half-way: read the next batch from scratch."""
        self.due = None
        self._still = -1
        self._doubtful = True
        self._batch.doubt()
        self._leave_run()

    def close(self) -> None:
        """Measure no more, and remove the ring."""
        self._records.close()

    def _scheduled_nothing(self, new: Sequence[Told], now_s: float) -> None:
        """Say that nothing runs, where nothing does."""
        if self._open or not (
            new or self._followed.changes or now_s - self._idle_s >= IDLE_EVERY_S
        ):
            return
        self._idle_s = now_s
        queue = self._queue.read(self._batch.prompts, detailed=False)
        waiting = queue.requests, queue.tokens, queue.oldest_s
        nothing = idling(self._flags, self.iterations, waiting, now_s)
        if self._followed.changes:
            self._tell(nothing, now_s)
        self._records.write(Kind.IDLE, nothing, now_s, rooms=rooms_of(new))

    def _tell_results(self, finished: Iterable[str], *, wakes: bool = False) -> None:
        """Tell results that were noted, and what they made of the requests.

        Args:
            finished: Ids of requests that have ended with the last of them.
            wakes: Whether the reader is woken.
        """
        untold, self._untold = self._untold, []
        last = untold[-1]
        for told in untold:
            (_, launched, iteration, launch_s), ready_s = told
            if later := iteration - launched.iteration:  # it was as another, but later
                tokens, pairs, decoding, kv_tokens = launched.load
                load = tokens, pairs, decoding, kv_tokens + later * decoding
                launched = launched._replace(iteration=iteration, load=load, launch_s=launch_s)
            latency_s = ready_s - max(launch_s, self._ready_s)
            self._ready_s = ready_s
            if launched.mode != Mode.PREFILL:
                self._tokens_s = ready_s
            if launched.done:
                self._followed.first_tokens(launched.done, ready_s)
            if finished and told is last:
                self._forget(finished, ready_s)
            if self._followed.changes:
                self._tell(launched, ready_s)
            self._records.write(_FINISHED, launched, ready_s, ready_s, latency_s, wakes=wakes)
            if not self._lives:
                self._lives = True
                _log.info("voltana: live: the first iteration took %.1f ms", 1e3 * latency_s)

    def _keep(self, output: Any, alike: Launched, launched: Launched) -> None:
        """Keep a launch with its output, whose number is not used again as long as it is kept.

        Args:
            output: What was scheduled.
            alike: The launch that it repeats; itself if it repeats none.
            launched: Itself. Its result is told of what was told at its launch alone.
        """
        if len(self._open) >= MOST_OPEN:  # what never comes back is not kept for ever
            del self._open[next(iter(self._open))]
        self._open[id(output)] = output, alike, launched.iteration, launched.launch_s

    def _end(self, finished: Iterable[str], now_s: float) -> None:
        """Tell the results that are there, and what has ended by now."""
        if self._untold:
            self._tell_results(finished)
        elif finished:
            self._forget(finished, now_s)

    def _forget(self, rids: Iterable[str], now_s: float) -> None:
        for told in self._followed.ended(rids, self._tokens_s, now_s):
            self._batch.forget(told)

    def _learn_cached(self, output: Any) -> None:
        """Note what of new prompts was in the prefix cache, a connector's included."""
        found = seen = 0
        for new in output.scheduled_new_reqs:
            told = self._followed.known[new.req_id]
            if not (told.remote or told.joined):
                found += new.num_computed_tokens
                seen += told.request.num_prompt_tokens
        if seen:
            self._cached.learn(found, seen)

    def _tell(self, launched: Launched, at_s: float) -> None:
        """Write what became of requests before the record that it belongs to."""
        changes, self._followed.changes = self._followed.changes, []
        self._records.write_changes(launched, changes, at_s)


def _oldest(worked_on: Iterable[Told], oldest_s: float) -> float:
    """Earliest arrival of what is computed or waits; nan where none does."""
    for told in worked_on:
        oldest_s = earlier(oldest_s, told.arrived_s)
    return oldest_s
