"""The plant's events, each of them when the wall's clock comes to its time.

Lateness does not add up: an event happens late by as much as the machine is, but what it schedules
counts from the time at which it should have happened.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.plant.events import EventQueue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LATE_S = 0.005
"""An event that happens later than this, on the wall, is late."""

DOUBLINGS = 8
"""How far above that lateness is told apart, by powers of two."""


class LiveEvents(EventQueue):
    """An `EventQueue` that steps by itself; one thread may use it.

    Args:
        loop: Whose time is that of the events.
        pace: Seconds of that time in one of the wall's.

    Attributes:
        happened: Events so far.
        late: Those of them that were late, by how often `LATE_S` doubles to that.
        latest_s: The most that one was late, in seconds of the wall, since it was last set to 0.
    """

    __slots__ = (
        "_armed_s",
        "_handle",
        "_loop",
        "_pace",
        "_stepping",
        "happened",
        "late",
        "latest_s",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: float) -> None:
        super().__init__()
        self._loop = loop
        self._pace = pace
        self._handle: asyncio.TimerHandle | None = None
        self._armed_s = math.inf
        self._stepping = False
        self.happened = 0
        self.late = [0] * DOUBLINGS
        self.latest_s = 0.0
        self.advance_to(loop.time())

    def schedule(self, at_s: float, action: Callable[[float], None]) -> None:
        """See `EventQueue.schedule`."""
        super().schedule(at_s, action)
        if not self._stepping:
            self._arm()

    def catch_up(self) -> float:
        """Let happen what is due, and move time on to now, before something comes from outside."""
        self._run_due()
        self.advance_to(self._loop.time())
        return self.now_s()

    def _run_due(self) -> None:
        self._stepping = True
        try:
            while (at_s := self.next_s()) <= (now_s := self._loop.time()):
                late_s = (now_s - at_s) / self._pace
                self.happened += 1
                if late_s > LATE_S:
                    doubled = math.frexp(late_s / LATE_S)[1] - 1
                    self.late[min(doubled, DOUBLINGS - 1)] += 1
                    self.latest_s = max(self.latest_s, late_s)
                self.step()
        finally:
            self._stepping = False
            self._arm()

    def _arm(self) -> None:
        next_s = self.next_s()
        if next_s == self._armed_s:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._armed_s = next_s
        self._handle = None if next_s == math.inf else self._loop.call_at(next_s, self._fire)

    def _fire(self) -> None:
        self._armed_s, self._handle = math.inf, None
        self._run_due()
