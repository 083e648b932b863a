"""The event queue: simulated time, and what happens when."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class EventQueue:
    """Events in the order of their time; ties go to the one that was scheduled first.

    It is also the time source of everything in the simulation.
    """

    __slots__ = ("_heap", "_now_s", "_scheduled")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._now_s = 0.0
        self._scheduled = 0

    def now_s(self) -> float:
        """Simulated time in seconds."""
        return self._now_s

    def schedule(self, at_s: float, action: Callable[[float], None]) -> None:
        """Call ``action(at_s)`` when simulated time reaches `at_s`."""
        self._scheduled += 1
        heappush(self._heap, (at_s, self._scheduled, action))

    def next_s(self) -> float:
        """Time of the next event; inf if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def step(self) -> None:
        """Let the next event happen."""
        at_s, _, action = heappop(self._heap)
        self._now_s = at_s
        action(at_s)

    def advance_to(self, now_s: float) -> None:
        """Move time on to `now_s`, at which or before which no event is left."""
        self._now_s = max(self._now_s, now_s)
