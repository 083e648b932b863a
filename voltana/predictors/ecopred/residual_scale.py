"""Online scale of a predictor's residuals, for a plain bound around its mean."""

from __future__ import annotations

import math


class ResidualScale:
    """Mean absolute relative residual with an exponential window, started from a prior guess.

    Args:
        prior: Guess before the first label; None where there is none: the scale is then infinite
            until `least_labels` have come.
        prior_labels: How many labels the guess is worth.
        window: Labels that the scale remembers.
        least_labels: Labels without which nothing is known.

    Attributes:
        labels: All labels so far.
    """

    __slots__ = ("_labels", "_least_labels", "_mean", "_prior_labels", "_window", "labels", "prior")

    MOST = 1.0
    """A single residual counts as at most this, so that one outlier does not own the window."""

    def __init__(
        self,
        prior: float | None,
        *,
        prior_labels: int = 10,
        window: int = 200,
        least_labels: int = 30,
    ) -> None:
        self.prior = prior
        self._prior_labels = prior_labels
        self._window = window
        self._least_labels = least_labels
        self._mean = self.MOST if prior is None else prior
        self._labels = 0
        self.labels = 0

    @property
    def value(self) -> float:
        """The scale; inf while nothing is known."""
        if self.prior is None and self._labels < self._least_labels:
            return math.inf
        return self._mean

    @property
    def estimate(self) -> float:
        """The scale, or the guess it starts from; never infinite."""
        return self._mean

    def update(self, relative_residual: float) -> None:
        """Take in |label - forecast| / forecast."""
        self.labels += 1
        if self._labels < self._window:
            self._labels += 1
        labels, most = self._labels + self._prior_labels, self.MOST
        weight = 1.0 / (labels if labels < self._window else self._window)
        residual = most if relative_residual > most else relative_residual
        self._mean += weight * (residual - self._mean)

    def widen(self, at_least: float) -> None:
        """Raise the scale to `at_least`; later labels bring it down again."""
        self._mean = max(self._mean, at_least)
        self._labels = min(self._labels, self._least_labels)
