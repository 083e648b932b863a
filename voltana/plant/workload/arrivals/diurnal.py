"""Arrivals whose rate follows the hours of a day: a Poisson process thinned to a rate profile."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.plant.workload.arrivals.poisson import Poisson
from voltana.plant.workload.arrivals.process import check_rate

if TYPE_CHECKING:
    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """An inhomogeneous Poisson process whose rate repeats a piecewise-linear profile.

    Attributes:
        profile: Relative rates at equal distances over one period, at least one above 0; linear
            between them, and the last leads back to the first. Only their ratios matter: the mean
            over a period is `rate_rps`.
        period_s: Length of a period; None compresses one period into the run.
        start_s: Where in the period the run begins.

    Raises:
        ConfigError: If the profile or the period is out of range.
    """

    profile: tuple[float, ...]
    period_s: float | None = None
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.profile or any(not 0 <= rate < math.inf for rate in self.profile):
            raise invalid("profile", self.profile, "relative rates of at least 0", "Give some.")
        if not any(self.profile):
            raise invalid("profile", self.profile, "above 0 somewhere", "Give the busy hours.")
        if self.period_s is not None and not 0 < self.period_s < math.inf:
            raise invalid("period_s", self.period_s, "above 0 s", "A day has 86400 s.")
        if not math.isfinite(self.start_s):
            raise invalid("start_s", self.start_s, "finite", "Give an offset into the period.")

    def relative_rate(self, times_s: FloatArray, period_s: float) -> FloatArray:
        """Rate relative to the mean at every time of `times_s`, for a period of `period_s`."""
        knots = np.array([*self.profile, self.profile[0]]) / np.mean(self.profile)
        phase = (times_s + self.start_s) / period_s % 1.0
        relative: FloatArray = np.interp(phase, np.linspace(0, 1, len(knots)), knots)
        return relative

    def sample(self, rate_rps: float, duration_s: float, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals of one run; see `ArrivalProcess.sample`.

        Candidates come at the peak rate, and each is kept with the probability (rate now) / (peak
        rate): thinning, Lewis and Shedler (1979).

        Raises:
            ConfigError: If rate or duration is out of range.
        """
        check_rate(rate_rps, duration_s)
        peak = max(self.profile) / float(np.mean(self.profile))
        times_rng, keep_rng = rng.spawn(2)
        candidate_s = Poisson().sample(rate_rps * peak, duration_s, times_rng)
        relative = self.relative_rate(candidate_s, self.period_s or duration_s)
        return candidate_s[keep_rng.random(len(candidate_s)) * peak < relative]


def load_profile() -> tuple[float, ...]:
    """The shipped profile of a day: 24 relative rates, the first at midnight of its source."""
    text = (
        resources.files("voltana.plant.workload").joinpath("data/diurnal.toml").read_text("utf-8")
    )
    return tuple(float(rate) for rate in tomllib.loads(text)["relative_rate"])
