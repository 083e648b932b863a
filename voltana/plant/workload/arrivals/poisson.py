"""Poisson arrivals: independent requests at a constant rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.plant.workload.arrivals.process import check_rate, renewal_arrivals

if TYPE_CHECKING:
    import numpy as np

    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True)
class Poisson:
    """A Poisson process; the same seed at another rate gives the same pattern, stretched."""

    def sample(self, rate_rps: float, duration_s: float, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals of one run; see `ArrivalProcess.sample`.

        Raises:
            ConfigError: If rate or duration is out of range.
        """
        check_rate(rate_rps, duration_s)
        gap_s = 1 / rate_rps

        def draw_gaps(count: int) -> FloatArray:
            return rng.standard_exponential(count) * gap_s

        return renewal_arrivals(float(draw_gaps(1)[0]), draw_gaps, gap_s, duration_s)
