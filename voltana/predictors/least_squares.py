"""Recursive least squares that forgets only in the direction that the data excite.

Plain exponential forgetting discards what was learned about every direction at the same pace. A
control loop that sits at one clock excites few directions, so it ends with a covariance that grows
without bound and coefficients that are noise at every other clock. Here the covariance changes only
along the regressor (Kulhavy and Karny, "Tracking of slowly varying parameters by directional
forgetting", IFAC World Congress 1984), never grows beyond the prior's, and the signs of
coefficients can be constrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from river import base

from voltana.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from river.base.typing import FeatureName, RegTarget

    from voltana.values import FloatArray

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

_LEAST_SPREAD = 1e-12
"""A regressor with less prior variance than this (in units of the noise's) teaches nothing."""

_SAFELY_BELOW_PRIOR = 1.0 - 1e-9
"""Variances up to this have not passed the prior's, 1, whatever rounding does."""

_TINY = 1e-300
"""Keeps a division from meeting 0."""


class DirectionalLeastSquares(base.Regressor):
    """Linear regression, updated one sample at a time, under a Gaussian prior.

    A river regressor: features come by name, new ones may appear at any time, and an absent one
    counts as 0. They need no scaling if `prior_deviation` is about as large as their coefficients
    may become. Whoever has the features as numbers in a fixed order uses the vector entries
    (`learn_vector`, `predict_vector`, `predict_products`), which do the work for those by name.

    The state is kept relative to the prior: coefficients are ``mean + deviation * z``, and the
    covariance is that of ``z``, so that it starts as the identity whatever the units are.

    Args:
        features: Names that are known from the start, in the order of vectors; others are appended
            as they appear.
        prior_mean: Coefficients before anything was learned, by name; 0 for those that it lacks.
        prior_deviation: Their standard deviations: one for all, or by name; 0, which fixes a
            coefficient, for those that a mapping lacks.
        noise: Standard deviation of the labels' noise.
        forgetting: Share of the information along a regressor that is kept at each sample, in
            (0, 1]; 1 never forgets.
        nonnegative: Whether coefficients must not be negative.
        outlier_deviations: Innovations beyond this many of their own standard deviations are
            clipped there (a Huber weight).

    Raises:
        ConfigError: If an argument is outside its range.

    Attributes:
        spread: Variance that was expected of the last sample, from the uncertainty of the
            coefficients alone, over its noise's; inf before the first.

    Examples:
        >>> from voltana.predictors import DirectionalLeastSquares
        >>> model = DirectionalLeastSquares(prior_deviation=10.0, noise=0.1)
        >>> for tokens in (1.0, 2.0, 3.0, 4.0):
        ...     model.learn_one({"one": 1.0, "tokens": tokens}, 3.0 + 2.0 * tokens)
        >>> round(model.predict_one({"one": 1.0, "tokens": 10.0}), 1)
        23.0
    """

    def __init__(
        self,
        *,
        features: Sequence[FeatureName] | None = None,
        prior_mean: Mapping[FeatureName, float] | None = None,
        prior_deviation: float | Mapping[FeatureName, float] = 1.0,
        noise: float = 1.0,
        forgetting: float = 0.998,
        nonnegative: bool = False,
        outlier_deviations: float = 4.0,
    ) -> None:
        _check(noise, forgetting, outlier_deviations)
        self.features = features
        self.prior_mean = prior_mean
        self.prior_deviation = prior_deviation
        self.noise = noise
        self.forgetting = forgetting
        self.nonnegative = nonnegative
        self.outlier_deviations = outlier_deviations
        self.spread = math.inf
        self._index: dict[FeatureName, int] = {}
        self._coefficients: FloatArray = np.zeros(0)
        self._deviation: FloatArray = np.zeros(0)
        self._covariance: Matrix = np.zeros((0, 0))
        self._at_prior: bool | None = None  # a variance is the prior's; None: not looked at yet
        self._scales: Matrix = np.zeros((0, 0))  # of the covariance, from that of z
        self._sign_weights: FloatArray | None = None
        self._grow(features or ())

    def learn_one(self, x: dict[FeatureName, float], y: RegTarget) -> None:
        """Learn the label `y` of the features `x`."""
        new = [name for name in x if name not in self._index]
        if new:
            # In a fixed order, so that the order within a dictionary does not change the rounding.
            self._grow(sorted(new, key=str))
        self.learn_vector(self._vector(x), float(y), self.noise)

    def predict_one(self, x: dict[FeatureName, float]) -> float:
        """Expected label of the features `x`; features never seen count with their prior mean."""
        prior = self.prior_mean or {}
        unseen = (name for name in x if name not in self._index)
        known = self.predict_vector(self._vector(x))
        return known + sum(prior.get(name, 0.0) * x[name] for name in unseen)

    @property
    def weights(self) -> dict[FeatureName, float]:
        """Current coefficients by feature."""
        return {name: float(self._coefficients[i]) for name, i in self._index.items()}

    @property
    def coefficients(self) -> FloatArray:
        """Current coefficients, shape (n,): the live array, to be read and not kept."""
        return self._coefficients

    @property
    def covariance(self) -> Matrix:
        """Their covariance, shape (n, n); a copy."""
        scaled: Matrix = self._covariance * self._scales
        return scaled

    def predict_vector(self, x: FloatArray) -> float:
        """Expected label for the regressor `x`, shape (n,)."""
        return float(self._coefficients.dot(x))

    def predict_products(self, load: Sequence[float], bases: Matrix) -> FloatArray:
        """Expected labels of many regressors at once, each the products of a basis with one load.

        Args:
            load: Shape (m,).
            bases: One column for each regressor, shape (k, n): the first m coefficients belong to
                the first row, and so on.

        Returns:
            Shape (n,).
        """
        by_basis = self._coefficients.reshape(len(bases), len(load)).dot(load)
        labels: FloatArray = by_basis.dot(bases)
        return labels

    def variance(self, x: FloatArray) -> float:
        """Variance of the expected label for `x`, from the uncertainty of the coefficients."""
        scaled = x * self._deviation
        return float(scaled.dot(self._covariance.dot(scaled)))

    def learn_vector(
        self,
        x: FloatArray,
        y: float,
        deviation: float = 1.0,
        *,
        labels: int = 1,
        tolerance: float = 1.0,
        expected: float | None = None,
    ) -> float:
        """Learn one sample.

        Args:
            x: Regressor, shape (n,).
            y: Label.
            deviation: Standard deviation of the label's noise; samples weigh by the inverse of its
                square.
            labels: Of how many labels `y` is the mean, and `deviation` that of the mean; as much is
                forgotten as by so many samples.
            tolerance: How many times as large residuals have been of late than `deviation` says.
                Only what stands out from those counts as an outlier, so a lasting change does not.
            expected: What `predict_vector` says of `x`, if it was asked already.

        Returns:
            The innovation over its standard deviation, before clipping: about 1 in size where the
            model fits.
        """
        scaled = x * self._deviation
        scaled *= 1.0 / deviation
        along = self._covariance.dot(scaled)
        self.spread = spread = float(scaled.dot(along))
        innovation = (y - (self.predict_vector(x) if expected is None else expected)) / deviation
        own_deviation = math.sqrt(1.0 + max(spread, 0.0))
        if spread > _LEAST_SPREAD:
            limit = self.outlier_deviations * own_deviation * tolerance
            step = along * self._deviation
            step *= min(max(innovation, -limit), limit) / (1.0 + spread)
            self._coefficients += step
            self._update_covariance(along, spread, labels)
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
        self._covariance, self._at_prior = grown * np.outer(shrink, shrink), None

    def _vector(self, x: Mapping[FeatureName, float]) -> FloatArray:
        vector = np.zeros(len(self._index))
        for name, value in x.items():
            index = self._index.get(name)
            if index is not None:
                vector[index] = value
        return vector

    def _grow(self, names: Sequence[FeatureName]) -> None:
        """Append features, which start from their prior."""
        known = len(self._index)
        self._index |= {name: known + i for i, name in enumerate(names)}
        if len(self._index) != known + len(names):
            raise invalid("features", names, "without repetition", "Name each feature once.")
        means, given = self.prior_mean or {}, self.prior_deviation
        mean = np.array([means.get(name, 0.0) for name in names], dtype=np.float64)
        deviation = np.array(
            [given.get(n, 0.0) if isinstance(given, Mapping) else given for n in names], np.float64
        )
        _check_prior(mean, deviation)
        self._coefficients = np.concatenate([self._coefficients, mean])
        self._deviation = np.concatenate([self._deviation, deviation])
        self._scales = np.outer(self._deviation, self._deviation)
        covariance = np.diag((self._deviation > 0).astype(np.float64))
        covariance[:known, :known] = self._covariance
        self._covariance, self._at_prior = covariance, None
        if self.nonnegative and len(self._index):
            free = self._deviation > 0
            self._sign_weights = np.where(free, 1.0 / np.where(free, self._deviation, 1.0), 0.0)
            self._keep_signs()

    def _update_covariance(self, along: FloatArray, spread: float, labels: int) -> None:
        """Add the sample's information and forget as much of the old along the same direction."""
        kept = self.forgetting**labels
        gain = (kept - (1.0 - kept) / spread) / (kept * (1.0 + spread))
        if gain < 0.0:
            gain = self._without_passing_prior(along, gain)
            if not gain:  # as mostly, once what is excited is known: nothing changes
                return
        outer = along[:, None] * along
        outer *= gain
        self._covariance, self._at_prior = self._covariance - outer, None

    def _without_passing_prior(self, along: FloatArray, gain: float) -> float:
        """The gain where forgetting prevails, such that no variance passes the prior's, 1.

        With one that is there already nothing can be forgotten, whatever the direction.
        """
        if self._at_prior:
            return 0.0
        variances = self._covariance.diagonal()
        if self._at_prior is None:
            self._at_prior = bool(np.maximum.reduce(variances) >= 1.0)
        if self._at_prior:
            return 0.0
        squares = along * along
        if np.maximum.reduce(variances - squares * gain) <= _SAFELY_BELOW_PRIOR:
            return gain
        room = (1.0 - variances) / (squares + _TINY)
        return max(gain, -max(float(np.minimum.reduce(room)), 0.0))

    def _keep_signs(self) -> None:
        """Move coefficients onto the boundary, and the others to where that costs least.

        The step along a column of the covariance is the conditional mean given that the violated
        coefficient is 0, so the fit to the data suffers as little as it can. Coefficients that were
        moved stay fixed while others are, which conditions the covariance on them too.
        """
        if self._sign_weights is None:
            return
        coefficients, deviation = self._coefficients, self._deviation
        if coefficients[coefficients.argmin()] >= 0.0:  # as mostly
            return
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


def _check_prior(mean: FloatArray, deviation: FloatArray) -> None:
    if not np.isfinite(mean).all():
        raise invalid("prior_mean", mean, "finite", "0 is usual.")
    if not (np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise invalid(
            "prior_deviation", deviation, "finite and not negative", "0 fixes a coefficient."
        )


def _check(noise: float, forgetting: float, outlier_deviations: float) -> None:
    if not 0 < noise < math.inf:
        raise invalid("noise", noise, "above 0, finite", "Give it in units of the labels.")
    if not 0 < forgetting <= 1:
        raise invalid("forgetting", forgetting, "in (0, 1]", "1 never forgets.")
    if not outlier_deviations > 0:
        raise invalid("outlier_deviations", outlier_deviations, "above 0", "4 is usual.")
