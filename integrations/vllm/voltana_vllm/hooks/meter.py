"""Measures iterations: when each was launched and ready, and what the scheduler says of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import MAX_ERRORS
from voltana_ring.hooks.records import IDLE_EVERY_S
from voltana_ring.layout import MAX_PAYLOAD, Kind
from voltana_ring.scheduled import MOMENTS, MOMENTS_WITH_RUN, ROWS, SCHEDULED, Told
from voltana_vllm.hooks.queue_view import QueueReader
from voltana_vllm.hooks.repeats import MOST_OPEN, Repeats
from voltana_vllm.hooks.rows import Rows, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana_ring.writer import RingWriter

# Plain numbers cost less to pack, and what is in this module less to find.
_SCHEDULED, _RUN = int(Kind.SCHEDULED), int(Kind.RUN)
_IDLE, _MORE = int(Told.IDLE), int(Told.MORE)
_log = logging.getLogger("vllm.voltana")

MOST_AHEAD = 2
"""Batches in flight of one that schedules ahead: more are a pipeline's, which overlap."""

MOST_BEFORE_RUN = MAX_PAYLOAD // 2
"""Bytes of rows that a run begins behind: where they leave less of the slot, it would be short."""


class Meter(Repeats):
    """Measures one scheduler; not thread-safe, as the scheduler is not.

    Where the engine hands batches to other processes it has nothing to do from then on until a
    result comes, and asks its scheduler for grammars first: what there is to do at a launch but to
    note its time is done there.

    Args:
        scheduler: The scheduler.
        ring: Where all goes.
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
        iterations: Iterations that were launched, but for those of a run that is under way.
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
        self._ring = ring
        self._flags = int(Told.SPECULATIVE) if speculative else 0
        self._rows = Rows(scheduler.requests, statuses)
        self._queue = QueueReader(scheduler, statuses["WAITING_FOR_STREAMING_REQ"])
        stages = getattr(scheduler.vllm_config.parallel_config, "pipeline_parallel_size", 1)
        self._repeats = not speculative and stages == 1
        self._wall_s = wall_s
        self._waits = waits
        self.due: Any = None
        self._due_s = 0.0  # when it was scheduled
        self._still = -1  # rows of the last batch, if all that run decoded in it
        self._launch_s = self._ready_s = 0.0  # of the last batch, and of the last result told
        self._idle_s = 0.0
        self._unseen = 0  # results of batches that were not seen to be scheduled
        self.iterations = self.errors = 0

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
        """Tell a batch that is launched, with the result that is there; or that none is."""
        left = self._first
        if left:
            self._leave_run()
        if not output.total_num_scheduled_tokens:
            self._scheduled_nothing(output.finished_req_ids)
            return
        rows, told, newest = output.num_scheduled_tokens, self._rows, next(reversed(self._requests))
        running, size = self._scheduler.running, len(rows)
        arrived = ended = out = prompts = queued = b""
        waiting = len(self._requests) - len(running)  # some of these may have ended
        same = known = newest is self._newest
        if output.finished_req_ids or told.doubtful:
            ended, same = told.ended(output.finished_req_ids), False
        if not (known or waiting):
            arrived, prompts = told.newcomer(output, newest)
        if not (known or arrived):
            arrived = told.arrived()
        if len(running) != size:
            out = left_out(running, rows)
        if not prompts and (
            told.partial or output.scheduled_new_reqs or told.doubtful
            or output.total_num_scheduled_tokens != size
            or output.scheduled_cached_reqs.resumed_req_ids
        ):  # fmt: skip
            prompts = told.prompts(output)
        if waiting or self._queue.told:
            waiting, queued = self._queue.read(detailed=bool(prompts))
        self._launch(output, (arrived, ended, out, prompts, queued), waiting, same=same)
        self._newest = newest
        if not (left and self._first):  # else who reads that run looks when its next pair is due
            self._ring.ring()

    def _launch(
        self, output: Any, told: tuple[bytes, bytes, bytes, bytes, bytes], waiting: int, *,
        same: bool,
    ) -> None:  # fmt: skip
        """Tell a launch, and begin a run behind it where the next may repeat it.

        Args:
            output: What was scheduled.
            told: Rows, in the order of `ROWS`.
            waiting: Requests that wait.
            same: Whether none has come or ended since the launch before.
        """
        flying, now_s = self._flying, self.now_s()
        ready, ready_s = self._result()
        arrived, ended, out, prompts, queued = told
        size, tokens = len(output.num_scheduled_tokens), output.total_num_scheduled_tokens
        launch_s, ahead, number = self._due_s or now_s, len(flying) + 1, self.iterations + 1
        if ahead > MOST_OPEN and not self._ready_s:
            raise self._unhooked("update_from_output")
        head = (
            _SCHEDULED, self._flags, len(arrived), len(ended), len(out), len(prompts),
            len(queued), number, launch_s, ready, ready_s, now_s,
            self._wall_s() if arrived else 0.0, size, tokens,
            sum(output.scheduled_cached_reqs.num_computed_tokens), waiting,
        )  # fmt: skip
        rows = b"".join(told)
        if len(rows) > MOST_BEFORE_RUN:
            head, rows = self._without_rows(head, told), b""
        # In flight are this batch and, asynchronously, the one before: where they are alike, their
        # times are all that there is to tell of those that repeat them.
        plain = not (prompts or out) and size == tokens and self._repeats
        alike = ahead == 1 or (ahead == MOST_AHEAD and same and size == self._still)
        if plain and alike and self._ready_s:
            begins_s = launch_s if ahead == 1 else self._launch_s
            payload = MOMENTS_WITH_RUN[len(rows)].pack(
                *head, rows, _RUN, number - ahead + 1, begins_s, self._ready_s
            )
            self._at, self._full = self._ring.begin_run(payload)
            self._first, self._size = self._at, size
        else:
            self._ring.put(MOMENTS[len(rows)].pack(*head, rows))
        flying.append(output)
        self.iterations, self._launch_s, self._still = number, launch_s, size if plain else -1

    def _leave_run(self) -> None:
        """Go on without the run; what is in flight of it stays so."""
        pairs, at = (self._at - self._first) // 2, self._at
        self._size = self._first = self._at = self._full = 0
        self._ring.end_run(pairs)
        if pairs:
            self._ready_s, self._launch_s = self._times[at - 2], self._times[at - 1]
            self.iterations += pairs

    def _updated_other(self, output: Any, ready_s: float) -> None:
        if self._first:
            self._leave_run()
        flying = self._flying
        if not any(one is output for one in flying):  # one that could not be measured
            self._unseen += output.total_num_scheduled_tokens > 0
            if self._unseen >= MAX_ERRORS and not self.iterations:
                raise self._unhooked("schedule")
            return
        if self._untold_s:
            self._tell(0, 0.0)
        while flying.popleft() is not output:  # results come in order: of these none will
            pass
        self._untold_s = ready_s
        if not self._scheduler.running:
            self._tell(0, ready_s, ended=self._rows.ended(self._scheduler.finished_req_ids))
            self._ring.ring()

    def _unhooked(self, method: str) -> RuntimeError:
        """What to say of a scheduler of the user's own that calls only one of the two methods."""
        return RuntimeError(
            f"{type(self._scheduler).__name__}.{method} must call vLLM's: hooks see nothing of it"
        )

    def freed(self, request: Any) -> None:
        """The engine puts a request away."""
        self._rows.free(request)

    def doubt(self) -> None:
        """Something went wrong half-way: look at all that is there with the next batch."""
        self.due = None
        self._newest, self._still = "", -1
        self._rows.doubt()
        self._queue.forget()
        if self._first:
            self._leave_run()

    def close(self) -> None:
        """Measure no more, and remove the ring."""
        self._ring.close()

    def _scheduled_nothing(self, finished: Iterable[str]) -> None:
        """Say that nothing runs, where nothing does."""
        now_s, told, requests = self.now_s(), self._rows, self._requests
        ended = told.ended(finished) if finished or told.doubtful else b""
        if self._flying:
            if self._untold_s or ended:
                self._tell(0, now_s, ended=ended)
            return
        arrived, newest = b"", next(reversed(requests), "")
        if newest is not self._newest:
            self._newest = newest
            arrived = told.arrived()
        if arrived or ended or self._untold_s or now_s - self._idle_s >= IDLE_EVERY_S:
            self._idle_s = now_s
            waiting, queued = self._queue.read(detailed=False)
            self._tell(_IDLE, now_s, arrived, ended, queued, waiting)
            self._ring.ring()

    def _tell(  # noqa: PLR0917  (as they are packed)
        self,
        flags: int,
        now_s: float,
        arrived: bytes = b"",
        ended: bytes = b"",
        queued: bytes = b"",
        waiting: int = 0,
    ) -> None:
        """Tell a moment at which nothing is launched, with the result that is there."""
        ready, ready_s = self._result()
        head = (
            _SCHEDULED, self._flags | flags, len(arrived), len(ended), 0, 0, len(queued),
            0, 0.0, ready, ready_s, now_s, self._wall_s(), 0, 0, 0, waiting,
        )  # fmt: skip
        rows = arrived + ended + queued
        if len(rows) > MOST_BEFORE_RUN:
            head, rows = self._without_rows(head, (arrived, ended, b"", b"", queued)), b""
        self._ring.put(MOMENTS[len(rows)].pack(*head, rows))

    def _result(self) -> tuple[int, float]:
        """The number of the iteration whose result is there, and when it was; zeros for none."""
        ready_s = self._untold_s
        if not ready_s:
            return 0, 0.0
        self._untold_s = 0.0
        if not self._ready_s:
            self._say_live(ready_s)
        self._ready_s = ready_s
        return self.iterations - len(self._flying), ready_s

    def _say_live(self, ready_s: float) -> None:
        took_ms = 1e3 * (ready_s - self._launch_s)
        _log.info("voltana: live: the first iteration took %.1f ms", took_ms)

    def _without_rows(self, head: tuple[Any, ...], told: tuple[bytes, ...]) -> tuple[Any, ...]:
        """The fields of a moment whose rows do not fit, and go into slots before its own."""
        for kind, (rows, row) in enumerate(zip(told, ROWS, strict=True)):
            most = (MAX_PAYLOAD - SCHEDULED.size) // row.size * row.size
            for at in range(0, len(rows), most):
                part = rows[at : at + most]
                sizes = [0] * len(ROWS)
                sizes[kind] = len(part)
                more = SCHEDULED.pack(_SCHEDULED, _MORE, *sizes, 0, 0.0, 0, *[0.0] * 3, 0, 0, 0, 0)
                self._ring.put(more + part)
        return *head[:2], *[0] * len(ROWS), *head[7:]
