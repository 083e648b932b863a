"""Time: a port, and the real thing behind it.

Production runs at the pace of the operating system's clock. A rehearsal (docs/rehearsal.md) may run
slower or faster: `FACTOR_VARIABLE` says how many seconds of its time pass in one of the wall's, and
everything that asks this module, and no clock of its own, follows.
"""

from __future__ import annotations

import os
import time
from typing import Protocol, runtime_checkable

from voltana_actuatord.errors import invalid

FACTOR_VARIABLE = "VOLTANA_TIME_FACTOR"
LEAST_FACTOR, MOST_FACTOR = 0.01, 4.0


@runtime_checkable
class TimeSource(Protocol):
    """The only source of time in a loop."""

    def now_s(self) -> float:
        """Monotonic time in seconds from an arbitrary zero."""
        ...


class MonotonicTime:
    """The operating system's monotonic clock, times the factor of this process; 1 in production.

    Raises:
        ConfigError: If the variable holds no factor.
    """

    __slots__ = ("_factor",)

    def __init__(self) -> None:
        self._factor = time_factor()

    def now_s(self) -> float:
        """Seconds since an arbitrary zero."""
        return time.monotonic() * self._factor


def time_factor() -> float:
    """Seconds of this process's time in one of the wall's.

    Raises:
        ConfigError: If the variable holds no factor.
    """
    return _factor(os.environ.get(FACTOR_VARIABLE))


def wall_s(seconds: float) -> float:
    """How long a wait of this process's time lasts on the wall, for what waits outside a loop."""
    return seconds / time_factor()


def lengthened_s(seconds: float, factor: float | None = None) -> float:
    """A limit that stays in wall time, such as a lease: longer in slow time, never shorter.

    Args:
        seconds: At a factor of 1.
        factor: That of other processes; None takes this one's.
    """
    return seconds / min(1.0, time_factor() if factor is None else factor)


def _factor(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise invalid(
            FACTOR_VARIABLE,
            text,
            f"{LEAST_FACTOR:g} to {MOST_FACTOR:g}",
            "Unset it outside of a rehearsal.",
        )
    return factor
