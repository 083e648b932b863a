"""A value that costs too much to be made for every look: it is made anew when it has grown old."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import TimeSource

_T = TypeVar("_T")

SNAPSHOT_S = 0.5
"""Age at which the models that routers are shown are frozen anew: that costs more than a state."""


class Renewed(Generic[_T]):
    """What `make` made last, until that is older than a period.

    Args:
        make: Makes it; called at the first look.
        time: Source of time.
        period_s: Age at which it is made anew.
    """

    __slots__ = ("_made_s", "_make", "_period_s", "_time", "_value")

    def __init__(self, make: Callable[[], _T], time: TimeSource, period_s: float) -> None:
        self._make = make
        self._time = time
        self._period_s = period_s
        self._made_s = -math.inf
        self._value: _T | None = None

    def current(self) -> _T:
        """A value that is younger than the period."""
        return self.at(self._time.now_s())

    def at(self, now_s: float) -> _T:
        """The same for whoever knows the time."""
        value = self._value
        if value is None or now_s - self._made_s >= self._period_s:
            self._made_s = now_s
            value = self._value = self._make()
        return value
