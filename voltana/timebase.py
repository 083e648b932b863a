"""Time sources and control periods.

A loop has exactly one injected time source. Nothing else in the library reads a clock, and no
sample time has a default.
"""

from __future__ import annotations

from voltana.errors import invalid
from voltana_actuatord.timebase import MonotonicTime

__all__ = ["ControlPeriod", "ManualTime", "MonotonicTime"]


class ManualTime:
    """Time that moves only when it is told to, for tests and simulations.

    Args:
        start_s: The first reading.
    """

    __slots__ = ("_now_s",)

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """Seconds since an arbitrary zero."""
        return self._now_s

    def advance_to(self, now_s: float) -> None:
        """Move to `now_s`.

        Raises:
            ConfigError: If that lies in the past.
        """
        if now_s < self._now_s:
            raise invalid("now_s", now_s, f"at least {self._now_s} s", "Time never runs backwards.")
        self._now_s = now_s

    def advance(self, seconds: float) -> None:
        """Move by `seconds`, which must not be negative."""
        self.advance_to(self._now_s + seconds)


class ControlPeriod:
    """Tells when a periodic controller is due, without drift.

    Args:
        period_s: Time between two ticks.
        start_s: When the first period begins.
    """

    __slots__ = ("_due_s", "period_s")

    def __init__(self, period_s: float, *, start_s: float) -> None:
        if not period_s > 0:
            raise invalid("period_s", period_s, "above 0 s", "Give the sample time explicitly.")
        self.period_s = period_s
        self._due_s = start_s + period_s

    def due(self, now_s: float) -> bool:
        """Whether a period has ended by `now_s`; if so, the next one begins on the grid."""
        if now_s < self._due_s:
            return False
        missed = int((now_s - self._due_s) // self.period_s)
        self._due_s += (missed + 1) * self.period_s
        return True
