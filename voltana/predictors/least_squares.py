"""Recursive least squares that forgets only in the direction that the data excite.

Plain exponential forgetting discards what was learned about every direction at the same pace. A
control loop that sits at one clock excites few directions, so it ends with a covariance that grows
without bound and coefficients that are noise at every other clock. Here the covariance changes only
along the regressor (Kulhavy and Karny, "Tracking of slowly varying parameters by directional
forgetting", IFAC World Congress 1984), never grows beyond the prior's, and the signs of
coefficients can be constrained.

This module needs NumPy alone, so that an engine process may import it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

_LEAST_SPREAD = 1e-12
"""A regressor with less prior variance than this (in units of the noise's) teaches nothing."""

_TINY = 1e-300
"""Keeps a division from meeting 0."""


class RecursiveLeastSquares:
    """Linear regression, updated one sample at a time, under a Gaussian prior.

    The state is kept relative to the prior: coefficients are ``mean + deviation * z``, and the
    covariance is that of ``z``, so that it starts as the identity whatever the units are.

    Args:
        prior_mean: Coefficients before anything was learned, shape (n,).
        prior_deviation: Their standard deviations, shape (n,), not negative; 0 fixes a coefficient.
        forgetting: Share of the information along a regressor that is kept at each sample, in
            (0, 1]; 1 never forgets.
        nonnegative: Which coefficients must not be negative, shape (n,); None means none.
        outlier_deviations: Innovations beyond this many of their own standard deviations are
            clipped there (a Huber weight).

    Raises:
        ConfigError: If an argument is outside its range.
    """

    __slots__ = (
        "_coefficients",
        "_covariance",
        "_deviation",
        "_forgetting",
        "_outlier_deviations",
        "_sign_weights",
    )

    def __init__(
        self,
        prior_mean: FloatArray,
        prior_deviation: FloatArray,
        *,
        forgetting: float = 0.998,
        nonnegative: Mask | None = None,
        outlier_deviations: float = 4.0,
    ) -> None:
        mean = np.array(prior_mean, dtype=np.float64)
        deviation = np.array(prior_deviation, dtype=np.float64)
        _check(mean, deviation, forgetting, outlier_deviations)
        self._coefficients: FloatArray = mean
        self._deviation: FloatArray = deviation
        self._covariance: Matrix = np.diag((deviation > 0).astype(np.float64))
        self._forgetting = forgetting
        self._sign_weights = _sign_weights(deviation, nonnegative)
        self._outlier_deviations = outlier_deviations
        self._keep_signs()

    @property
    def coefficients(self) -> FloatArray:
        """Current coefficients, shape (n,): the live array, to be read and not kept."""
        return self._coefficients

    @property
    def covariance(self) -> Matrix:
        """Their covariance, shape (n, n); a copy."""
        scaled: Matrix = self._covariance * np.outer(self._deviation, self._deviation)
        return scaled

    def predict_vector(self, x: FloatArray) -> float:
        """Expected label for the regressor `x`, shape (n,)."""
        return float(self._coefficients.dot(x))

    def variance(self, x: FloatArray) -> float:
        """Variance of the expected label for `x`, from the uncertainty of the coefficients."""
        scaled = x * self._deviation
        return float(scaled.dot(self._covariance.dot(scaled)))

    def learn_vector(
        self, x: FloatArray, y: float, deviation: float = 1.0, *, tolerance: float = 1.0
    ) -> float:
        """Learn one sample.

        Args:
            x: Regressor, shape (n,).
            y: Label.
            deviation: Standard deviation of the label's noise; samples weigh by the inverse of its
                square.
            tolerance: How many times as large residuals have been of late than `deviation` says.
                Only what stands out from those counts as an outlier, so a lasting change does not.

        Returns:
            The innovation over its standard deviation, before clipping: about 1 in size where the
            model fits.
        """
        scaled = x * self._deviation
        scaled *= 1.0 / deviation
        along = self._covariance.dot(scaled)
        spread = float(scaled.dot(along))
        innovation = (y - float(self._coefficients.dot(x))) / deviation
        own_deviation = math.sqrt(1.0 + max(spread, 0.0))
        if spread > _LEAST_SPREAD:
            limit = self._outlier_deviations * own_deviation * tolerance
            step = along * self._deviation
            step *= min(max(innovation, -limit), limit) / (1.0 + spread)
            self._coefficients += step
            self._update_covariance(along, spread)
            self._keep_signs()
        return innovation / own_deviation

    def reopen(self, factor: float) -> None:
        """Multiply the covariance by `factor`, up to the prior's: what was learned weighs less.

        Args:
            factor: At least 1.

        Raises:
            ConfigError: If it is smaller.
        """
        if not factor >= 1:
            raise invalid("factor", factor, "at least 1", "A larger factor forgets more.")
        grown = self._covariance * factor
        # Scaling rows and columns alike keeps the matrix positive definite.
        shrink = 1.0 / np.sqrt(np.maximum(grown.diagonal(), 1.0))
        self._covariance = grown * np.outer(shrink, shrink)

    def adopt(self, smaller: RecursiveLeastSquares) -> None:
        """Take over what `smaller` learned of the first coefficients; the others keep the prior."""
        count = len(smaller._coefficients)
        self._coefficients[:count] = smaller._coefficients
        self._covariance[:count, :count] = smaller._covariance

    def _update_covariance(self, along: FloatArray, spread: float) -> None:
        """Add the sample's information and forget as much of the old along the same direction."""
        kept = self._forgetting
        gain = (kept - (1.0 - kept) / spread) / (kept * (1.0 + spread))
        outer = along[:, None] * along
        if gain < 0.0:
            # Little is left to learn here, so forgetting prevails; no variance may pass the prior.
            room = (1.0 - self._covariance.diagonal()) / (along * along + _TINY)
            gain = max(gain, -max(float(room.min()), 0.0))
        outer *= gain
        self._covariance -= outer

    def _keep_signs(self) -> None:
        """Move coefficients onto the boundary, and the others to where that costs least.

        The step along a column of the covariance is the conditional mean given that the violated
        coefficient is 0, so the fit to the data suffers as little as it can. Coefficients that were
        moved stay fixed while others are, which conditions the covariance on them too.
        """
        if self._sign_weights is None:
            return
        coefficients, deviation = self._coefficients, self._deviation
        scaled = coefficients * self._sign_weights
        worst = int(scaled.argmin())
        if scaled[worst] >= 0.0:
            return
        given = self._covariance
        for _ in range(len(coefficients)):
            column, variance = given[worst], float(given[worst, worst])
            if variance > _LEAST_SPREAD:
                move = column * deviation
                move *= float(coefficients[worst]) / (variance * float(deviation[worst]))
                coefficients -= move
            coefficients[worst] = 0.0
            scaled = coefficients * self._sign_weights
            next_worst = int(scaled.argmin())
            if scaled[next_worst] >= 0.0:
                return
            if variance > _LEAST_SPREAD:
                given = given - column[:, None] * (column / variance)
            worst = next_worst
        # Rounding left something; the conditional covariance has nothing more to say about it.
        coefficients[scaled < 0.0] = 0.0


def _check(
    mean: FloatArray, deviation: FloatArray, forgetting: float, outlier_deviations: float
) -> None:
    if mean.ndim != 1 or mean.shape != deviation.shape:
        raise invalid(
            "prior_deviation", deviation.shape, f"of shape {mean.shape}", "Give one a coefficient."
        )
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise invalid(
            "prior_deviation", deviation, "finite and not negative", "0 fixes a coefficient."
        )
    if not 0 < forgetting <= 1:
        raise invalid("forgetting", forgetting, "in (0, 1]", "1 never forgets.")
    if not outlier_deviations > 0:
        raise invalid("outlier_deviations", outlier_deviations, "above 0", "4 is usual.")


def _sign_weights(deviation: FloatArray, nonnegative: Mask | None) -> FloatArray | None:
    """Weights under which only constrained coefficients can look negative; None without any."""
    if nonnegative is None or not nonnegative.any():
        return None
    free = nonnegative & (deviation > 0)
    return np.where(free, 1.0 / np.where(free, deviation, 1.0), 0.0)
