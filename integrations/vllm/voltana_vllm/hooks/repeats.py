"""The short way of batches that decode what the one before did, a token later.

Most batches do. Hooks run a few hundred times a second, on code and data that are in no cache by
then, so that each line, each function and each object that is touched costs: here are few. Two
times are stored where the reader makes records of them (`voltana_ring.layout.RUN`), without a bell,
which costs as much as all of it: a reader knows when to look for the next. All else is left to
whatever comes that differs.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_ring.writer import RingWriter


MOST_OPEN = 64
"""More batches than any engine has in flight."""


class Repeats:
    """Hooks of a scheduler that tell such batches; another class tells the others.

    Args:
        scheduler: The scheduler.
        ring: Where times go.
        now_s: The monotonic clock.

    Attributes:
        now_s: The monotonic clock.
    """

    __slots__ = (
        "__dict__", "_at", "_first", "_flying", "_full", "_newest", "_requests",
        "_scheduler", "_size", "_times", "_untold_s", "now_s",
    )  # fmt: skip

    def __init__(self, scheduler: Any, ring: RingWriter, now_s: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._requests = scheduler.requests
        self._times = ring.times
        self.now_s = now_s
        self._size = 0  # requests of a batch that repeats the one before; 0: none does
        self._newest = ""  # the request that came last by then
        self._first = self._at = self._full = 0  # places of the run's pairs; 0: there is none
        # Batches whose results are not there, in order; what never comes back goes in the end.
        self._flying: deque[Any] = deque(maxlen=MOST_OPEN)
        self._untold_s = 0.0  # when a result was there that is not told; 0: there is none

    def scheduled(self, output: Any) -> None:
        """Note what was scheduled: a batch that is about to run, or nothing."""
        if (
            output.total_num_scheduled_tokens == self._size == len(output.num_scheduled_tokens)
            and self._untold_s
            and self._at != self._full
            and not (
                output.finished_req_ids
                or output.scheduled_new_reqs
                or output.scheduled_cached_reqs.resumed_req_ids
            )
            and next(reversed(self._requests)) is self._newest
        ):
            at, times = self._at, self._times
            times[at + 2] = times[at + 3] = 0.0
            times[at] = self._untold_s
            self._untold_s = 0.0
            times[at + 1] = self.now_s()
            self._at = at + 2
            self._flying.append(output)
        else:
            self._size = 0
            self._scheduled_other(output)

    def updated(self, output: Any, ready_s: float) -> None:
        """Note a result; it is told with the launch that follows at once, or now where none does.

        Args:
            output: What was scheduled.
            ready_s: When the result was there.
        """
        flying = self._flying
        if flying and flying[0] is output and not self._untold_s and self._scheduler.running:
            flying.popleft()
            self._untold_s = ready_s
        else:
            self._updated_other(output, ready_s)

    def _scheduled_other(self, output: Any) -> None:
        raise NotImplementedError

    def _updated_other(self, output: Any, ready_s: float) -> None:
        raise NotImplementedError
