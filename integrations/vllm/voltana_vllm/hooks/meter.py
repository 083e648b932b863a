"""Measures iterations: when each was launched and ready, and what the scheduler says of it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.guard import MAX_ERRORS
from voltana_ring.hooks.records import IDLE_EVERY_S
from voltana_ring.layout import MAX_PAYLOAD, RUN, Kind
from voltana_ring.scheduled import SCHEDULED, Told, pieces
from voltana_vllm.hooks.queue_view import QueueReader
from voltana_vllm.hooks.repeats import MOST_OPEN, Repeats
from voltana_vllm.hooks.rows import Rows, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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
        if not output.total_num_scheduled_tokens:
            self._scheduled_nothing(output.finished_req_ids)
        elif self._waits:
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
        """Tell a batch that is launched, with the result that is there."""
        left, told, requests = self._first, self._rows, self._requests
        if left:
            self._leave_run()
        tokens, size = output.total_num_scheduled_tokens, len(output.num_scheduled_tokens)
        newest, running = next(reversed(requests)), len(self._scheduler.running)
        waiting, ended, more = len(requests) - running, b"", b""  # some of these may have ended
        if output.finished_req_ids or told.doubtful:
            ended = told.ended(output.finished_req_ids)
        known = newest is self._newest
        same = known and not ended
        # Nothing waits, and of all that run something is computed.
        plain = running == size and not (
            waiting or self._queue.told or told.partial or told.doubtful
            or output.scheduled_cached_reqs.resumed_req_ids
        )  # fmt: skip
        if plain and output.scheduled_new_reqs:
            more, decodes = told.newcomers(output), False
        else:
            decodes = plain and tokens == size and (known or newest in told.known)
        if not (more or decodes):
            more, waiting, decodes = self._looked(output, waiting, known=known)
        self._newest = newest
        self._launch(output, ended + more, waiting, decodes=decodes, same=same)
        if not (left and self._first):  # else who reads that run looks when its next pair is due
            self._ring.ring()

    def _looked(self, output: Any, waiting: int, *, known: bool) -> tuple[bytes, int, bool]:
        """What there is to tell of a batch but for what has ended, whatever it is.

        Args:
            output: What was scheduled.
            waiting: Requests that do not run.
            known: Whether none has come since the launch before.

        Returns:
            Rows, how many requests wait, and whether all that run decode.
        """
        told, running, rows = self._rows, self._scheduler.running, output.num_scheduled_tokens
        out = prompts = queued = b""
        arrived = b"" if known else told.arrived()
        if len(running) != len(rows):
            out = left_out(running, rows)
        if (
            told.partial or output.scheduled_new_reqs or told.doubtful
            or output.total_num_scheduled_tokens != len(rows)
            or output.scheduled_cached_reqs.resumed_req_ids
        ):  # fmt: skip
            prompts = told.prompts(output)
        if waiting or self._queue.told:
            waiting, queued = self._queue.read(detailed=bool(prompts))
        decodes = not (prompts or out) and output.total_num_scheduled_tokens == len(rows)
        return b"".join((arrived, out, prompts, queued)), waiting, decodes

    def _launch(self, output: Any, rows: bytes, waiting: int, *, decodes: bool, same: bool) -> None:
        """Tell a launch, and begin a run behind it where the next may repeat it.

        Args:
            output: What was scheduled.
            rows: What has changed; see `voltana_ring.scheduled`.
            waiting: Requests that wait.
            decodes: Whether all that run decode a token.
            same: Whether none has come or ended since the launch before.
        """
        flying, now_s = self._flying, self.now_s()
        ready, ready_s = self._result()
        size, ahead, number = len(output.num_scheduled_tokens), len(flying) + 1, self.iterations + 1
        if ahead > MOST_OPEN and not self._ready_s:
            raise self._unhooked("update_from_output")
        launch_s, wall_s = self._due_s or now_s, self._wall_s() if rows else 0.0
        if len(rows) > MOST_BEFORE_RUN:
            rows = self._put_rows(rows)
        told = SCHEDULED.pack(
            _SCHEDULED, self._flags, number, launch_s, ready, ready_s, now_s, wall_s,
            size, output.total_num_scheduled_tokens,
            sum(output.scheduled_cached_reqs.num_computed_tokens), waiting,
        ) + rows  # fmt: skip
        # In flight are this batch and, asynchronously, the one before: where they are alike, their
        # times are all that there is to tell of those that repeat them.
        alike = ahead == 1 or (ahead == MOST_AHEAD and same and size == self._still)
        if decodes and alike and self._repeats and self._ready_s:
            begins_s = launch_s if ahead == 1 else self._launch_s
            self._at, self._full = self._ring.begin_run(
                told + RUN.pack(_RUN, number - ahead + 1, begins_s, self._ready_s)
            )
            self._first, self._size = self._at, size
        else:
            self._ring.put(told)
        flying.append(output)
        self.iterations, self._launch_s, self._still = number, launch_s, size if decodes else -1

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
            self._tell(0, ready_s, self._rows.ended(self._scheduler.finished_req_ids))
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

    def _scheduled_nothing(self, finished: Collection[str]) -> None:
        """Say that nothing runs, where nothing does."""
        if self._first:
            self._leave_run()
        now_s, told, requests = self.now_s(), self._rows, self._requests
        ended = told.ended(finished) if finished or told.doubtful else b""
        if self._flying:
            if self._untold_s or ended:
                self._tell(0, now_s, ended)
            return
        arrived, newest = b"", next(reversed(requests), "")
        if newest is not self._newest:
            self._newest = newest
            arrived = told.arrived()
        if arrived or ended or self._untold_s or now_s - self._idle_s >= IDLE_EVERY_S:
            self._idle_s = now_s
            waiting, queued = self._queue.read(detailed=False)
            self._tell(_IDLE, now_s, arrived + ended + queued, waiting)
            self._ring.ring()

    def _tell(self, flags: int, now_s: float, rows: bytes = b"", waiting: int = 0) -> None:
        """Tell a moment at which nothing is launched, with the result that is there."""
        ready, ready_s = self._result()
        if len(rows) > MOST_BEFORE_RUN:
            rows = self._put_rows(rows)
        head = SCHEDULED.pack(
            _SCHEDULED, self._flags | flags, 0, 0.0, ready, ready_s, now_s, self._wall_s(),
            0, 0, 0, waiting,
        )  # fmt: skip
        self._ring.put(head + rows)

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

    def _put_rows(self, rows: bytes) -> bytes:
        """Put rows that do not fit behind a moment into slots before its own; none are left."""
        head = SCHEDULED.pack(_SCHEDULED, _MORE, 0, 0.0, 0, *[0.0] * 3, 0, 0, 0, 0)
        for piece in pieces(rows, MAX_PAYLOAD - SCHEDULED.size):
            self._ring.put(head + piece)
        return b""
