"""Lengths from a fitted quantile function: for data sets whose lengths were measured.

Between knots the logarithm of the length is a monotone cubic (Fritsch and Carlson, 1980) in the
normal score of the probability; a lognormal distribution is a straight line in these coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.plant.workload.lengths.marginal import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import FloatArray


@dataclass(frozen=True, kw_only=True)
class LogQuantiles:
    """A distribution given by some of its quantiles.

    Attributes:
        probability: Ascending, each in (0, 1); at least two.
        tokens_at: Quantiles at these probabilities, ascending, from 1 on. Nothing is shorter than
            the first or longer than the last.

    Raises:
        ConfigError: If the knots are not as stated.
    """

    probability: tuple[float, ...]
    tokens_at: tuple[float, ...]

    def __post_init__(self) -> None:
        p = np.array(self.probability, dtype=float)
        if len(p) < 2 or not (p[0] > 0 and p[-1] < 1 and np.all(np.diff(p) > 0)):
            raise invalid(
                "probability",
                self.probability,
                "two or more in (0, 1), ascending",
                "Give the knots in order.",
            )
        q = np.array(self.tokens_at, dtype=float)
        if q.shape != p.shape or not (
            q[0] >= 1 and q[-1] <= MAX_TOKENS and np.all(np.diff(q) >= 0)
        ):
            raise invalid(
                "tokens_at",
                self.tokens_at,
                f"one for each probability, ascending, from 1 to {MAX_TOKENS}",
                "Give the quantiles in order.",
            )

    @cached_property
    def _log_tokens(self) -> tuple[Callable[[FloatArray], FloatArray], float, float]:
        from scipy.interpolate import PchipInterpolator  # noqa: PLC0415  (not in `--help`)
        from scipy.special import ndtri  # noqa: PLC0415

        scores = ndtri(np.array(self.probability))
        return PchipInterpolator(scores, np.log(self.tokens_at)), scores[0], scores[-1]

    def tokens(self, scores: FloatArray) -> FloatArray:
        """Lengths at standard normal `scores`; see `Marginal.tokens`."""
        log_tokens, lowest, highest = self._log_tokens
        return np.exp(log_tokens(np.clip(scores, lowest, highest)))

    def scaled(self, factor: float) -> LogQuantiles:
        """The same shape, `factor` times as long; see `Marginal.scaled`."""
        return replace(self, tokens_at=tuple(max(q * factor, 1.0) for q in self.tokens_at))
