"""What a predictor says of one load at many clocks."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.quick import quickly_made

if TYPE_CHECKING:
    from voltana.promise import Margin
    from voltana.values.arrays import FloatArray

_BELOW = 0.9
"""Share of its slowest clock down to which a forecast speaks of slower ones."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """Latency of one load at many clocks.

    Attributes:
        clocks_mhz: Shape (n,), ascending.
        mean_s: Shape (n,), expected latency; inf where unknown.
        upper_s: Shape (n,), latency that is exceeded rarely; inf where unknown.
        margin: What a guarantee issued with it (docs/guarantee.md); None without one.
    """

    clocks_mhz: FloatArray
    mean_s: FloatArray
    upper_s: FloatArray
    margin: Margin | None = None

    def index_at(self, clock_mhz: float) -> int:
        """Index of the fastest forecast clock that is not above `clock_mhz`; -1 below all."""
        if not clock_mhz > 0:
            return -1
        return bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1

    def standing_for(self, clock_mhz: float) -> tuple[int, float]:
        """Index of the forecast clock that stands for `clock_mhz`, and a factor on its latencies.

        Latency grows by no more than the clock falls. So between two clocks it is at most that of
        the slower one, and at most that of the faster one times what is lacking to it; the lesser
        holds. A little below all of them, as a device reads that does not quite reach its clock, it
        is the slowest. (-1, inf) for a clock that nothing was forecast for.
        """
        index = self.index_at(clock_mhz)
        clocks_mhz, count = self.clocks_mhz, len(self.clocks_mhz)
        if index == count - 1 or (index >= 0 and clocks_mhz[index] >= clock_mhz - 1e-9):
            return index, 1.0
        if not (count and clock_mhz >= _BELOW * clocks_mhz[0]):
            return -1, math.inf
        factor = float(clocks_mhz[index + 1]) / clock_mhz
        if index >= 0 and not self.mean_s[index + 1] * factor < self.mean_s[index]:
            return index, 1.0
        return index + 1, factor

    def upper_at(self, clock_mhz: float) -> float:
        """Upper bound at the fastest forecast clock that is not above `clock_mhz`; inf below all.

        A slower clock takes longer, so rounding down keeps the bound a bound. An unknown clock
        (nan) has none.
        """
        index = bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1
        return float(self.upper_s[index]) if index >= 0 and clock_mhz > 0 else math.inf

    def mean_at(self, clock_mhz: float) -> float:
        """Mean at the fastest forecast clock that is not above `clock_mhz`; inf below all."""
        index = bisect_right(self.clocks_mhz, clock_mhz + 1e-9) - 1
        return float(self.mean_s[index]) if index >= 0 and clock_mhz > 0 else math.inf
