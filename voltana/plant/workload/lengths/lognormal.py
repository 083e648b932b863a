"""Lognormal lengths, clipped, from two moments: for data sets known only by published averages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.plant.workload.lengths.marginal import MAX_TOKENS

if TYPE_CHECKING:
    from voltana.values import FloatArray


@dataclass(frozen=True, kw_only=True)
class Lognormal:
    """A lognormal distribution clipped to [min_tokens, max_tokens].

    Attributes:
        mean_tokens: Mean after the clipping; the location follows from it.
        log_std: Standard deviation of the logarithm before the clipping: the free moment, which
            sets how heavy the tail is.
        min_tokens: Shortest length, at least 1.
        max_tokens: Longest length.

    Raises:
        ConfigError: If the mean does not lie between the ends, or a value is out of range.
    """

    mean_tokens: float
    log_std: float
    min_tokens: float = 1.0
    max_tokens: float = float(MAX_TOKENS)

    def __post_init__(self) -> None:
        if not 1 <= self.min_tokens < self.max_tokens <= MAX_TOKENS:
            raise invalid(
                "min_tokens, max_tokens",
                (self.min_tokens, self.max_tokens),
                f"ascending, from 1 to {MAX_TOKENS}",
                "Give the shortest and the longest length.",
            )
        if not self.min_tokens < self.mean_tokens < self.max_tokens:
            raise invalid(
                "mean_tokens",
                self.mean_tokens,
                f"between min_tokens = {self.min_tokens} and max_tokens = {self.max_tokens}",
                "Give another mean or wider ends.",
            )
        if not 0 < self.log_std <= 5:
            raise invalid("log_std", self.log_std, "above 0 and at most 5", "1 is usual.")

    @cached_property
    def log_location(self) -> float:
        """Mean of the logarithm before the clipping, such that the clipped mean is as stated."""
        from scipy.optimize import brentq  # noqa: PLC0415  (keeps scipy out of `voltana --help`)

        # The clipped mean rises from min_tokens to max_tokens over this range.
        low = math.log(self.min_tokens) - 40 * self.log_std
        high = math.log(self.max_tokens) + 40 * self.log_std
        return float(brentq(lambda mu: self._clipped_mean(mu) - self.mean_tokens, low, high))

    def _clipped_mean(self, mu: float) -> float:
        """Mean of the clipped variable: partial expectation plus the two clipped masses."""
        sigma = self.log_std
        low = (math.log(self.min_tokens) - mu) / sigma
        high = (math.log(self.max_tokens) - mu) / sigma
        inside = _normal_cdf(high - sigma) - _normal_cdf(low - sigma)
        # An empty inside would multiply an overflowing exponential by zero.
        body = math.exp(mu + sigma**2 / 2) * inside if inside > 0 else 0.0
        return self.min_tokens * _normal_cdf(low) + body + self.max_tokens * _normal_cdf(-high)

    def tokens(self, scores: FloatArray) -> FloatArray:
        """Lengths at standard normal `scores`; see `Marginal.tokens`."""
        exponents = np.minimum(self.log_location + self.log_std * scores, 50.0)
        return np.clip(np.exp(exponents), self.min_tokens, self.max_tokens)

    def scaled(self, factor: float) -> Lognormal:
        """The same shape, `factor` times as long; see `Marginal.scaled`."""
        return replace(
            self,
            mean_tokens=self.mean_tokens * factor,
            min_tokens=max(self.min_tokens * factor, 1.0),
            max_tokens=self.max_tokens * factor,
        )


def _normal_cdf(score: float) -> float:
    return math.erfc(-score / math.sqrt(2)) / 2
