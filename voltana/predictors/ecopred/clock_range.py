"""The range of clocks at which a model has been tried."""

from __future__ import annotations

LABELS_TO_TRUST = 5
"""Labels beyond the range of clocks tried before the range is widened."""


class ClockRange:
    """The range of clocks at which labels have come, widened once there are a few of them.

    Args:
        max_clock_mhz: Where the range lies before the first label.
    """

    __slots__ = ("_faster", "_slower", "_tried", "fastest_mhz", "slowest_mhz")

    def __init__(self, max_clock_mhz: float) -> None:
        self.slowest_mhz = self.fastest_mhz = max_clock_mhz
        self._tried = False
        self._slower: list[float] = []
        self._faster: list[float] = []

    def update(self, clock_mhz: float) -> None:
        """Take in the clock of one label."""
        if not self._tried:
            self.slowest_mhz = self.fastest_mhz = clock_mhz
            self._tried = True
        elif clock_mhz < self.slowest_mhz:
            self._slower.append(clock_mhz)
            if len(self._slower) >= LABELS_TO_TRUST:
                self.slowest_mhz = max(self._slower)
                self._slower.clear()
        elif clock_mhz > self.fastest_mhz:
            self._faster.append(clock_mhz)
            if len(self._faster) >= LABELS_TO_TRUST:
                self.fastest_mhz = min(self._faster)
                self._faster.clear()

    def trust(self, slowest_mhz: float, fastest_mhz: float) -> None:
        """Take this range as tried."""
        self.slowest_mhz, self.fastest_mhz, self._tried = slowest_mhz, fastest_mhz, True

    def restart(self) -> None:
        """Forget it: the next label starts it anew."""
        self._tried = False
        self._slower.clear()
        self._faster.clear()
