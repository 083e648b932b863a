"""What the distribution of one length offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

MAX_TOKENS = 10_000_000
"""No model takes a longer prompt; a larger number in a file is a mistake."""


class Marginal(Protocol):
    """The distribution of prompt or output tokens, as a function of a standard normal score.

    Scores, not probabilities, so that a Gaussian copula can join two of them directly.
    """

    def tokens(self, scores: FloatArray) -> FloatArray:
        """Lengths in tokens, not yet rounded, at standard normal `scores`; ascending in them."""
        ...

    def scaled(self, factor: float) -> Marginal:
        """The same shape with every length multiplied by `factor`."""
        ...


def mean_tokens(marginal: Marginal, points: int = 20_000) -> float:
    """Mean of the rounded lengths, by the midpoint rule over `points` equal probabilities."""
    from scipy.special import ndtri  # noqa: PLC0415  (keeps scipy out of `voltana --help`)

    scores = ndtri((np.arange(points) + 0.5) / points)
    return float(round_tokens(marginal.tokens(scores)).mean())


def round_tokens(tokens: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Whole tokens, at least 1."""
    return np.maximum(np.rint(tokens), 1).astype(np.int64)
