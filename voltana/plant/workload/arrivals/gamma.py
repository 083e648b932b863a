"""Gamma renewal arrivals: bursts, or regularity, set by one coefficient of variation.

Gamma-distributed gaps describe the short-term burstiness of recorded LLM services: Wang et al.,
BurstGPT (arXiv 2401.17644); Xiang et al., ServeGen (arXiv 2505.09999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.plant.workload.arrivals.process import check_rate, renewal_arrivals

if TYPE_CHECKING:
    import numpy as np

    from voltana.values import FloatArray

MAX_CV = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """A stationary renewal process with gamma-distributed gaps.

    Attributes:
        cv: Coefficient of variation of the gaps: 1 is Poisson, above 1 comes in bursts, below 1
            is more even than Poisson.

    Raises:
        ConfigError: If `cv` is out of range.
    """

    cv: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.cv <= MAX_CV:
            raise invalid(
                "cv", self.cv, f"above 0 and at most {MAX_CV:g}", "1 is as random as Poisson."
            )

    def sample(self, rate_rps: float, duration_s: float, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals of one run; see `ArrivalProcess.sample`.

        The run begins at a random instant of the process, not at an arrival: the first gap is the
        uniform remainder of a length-biased gap, which keeps the mean rate exact from the start
        (Cox, Renewal Theory, 1962, section 5.4). Starting at an arrival would add (cv^2 - 1) / 2
        requests to every run.

        Raises:
            ConfigError: If rate or duration is out of range.
        """
        check_rate(rate_rps, duration_s)
        shape = self.cv**-2
        scale_s = 1 / (rate_rps * shape)

        def draw_gaps(count: int) -> FloatArray:
            return rng.standard_gamma(shape, count) * scale_s

        first_s = rng.random() * rng.standard_gamma(shape + 1) * scale_s
        return renewal_arrivals(first_s, draw_gaps, 1 / rate_rps, duration_s)
