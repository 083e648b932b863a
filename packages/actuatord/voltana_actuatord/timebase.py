"""Time: a port, and the real thing behind it."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class TimeSource(Protocol):
    """The only source of time in a loop."""

    def now_s(self) -> float:
        """Monotonic time in seconds from an arbitrary zero."""
        ...


class MonotonicTime:
    """Real time, from the operating system's monotonic clock."""

    def now_s(self) -> float:
        """Seconds since an arbitrary zero."""
        return time.monotonic()
