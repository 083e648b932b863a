"""Directionally forgetting least squares as a river regressor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from river import base

from voltana.predictors.least_squares import RecursiveLeastSquares

if TYPE_CHECKING:
    from collections.abc import Mapping

    from river.base.typing import FeatureName, RegTarget

    from voltana.values import FloatArray


class DirectionalLeastSquares(base.Regressor):
    """Recursive least squares that forgets only where the data excite it.

    `voltana.predictors.least_squares.RecursiveLeastSquares` behind river's interface: features are
    dictionaries, new ones may appear at any time, and an absent one counts as 0. Features need no
    scaling if `prior_deviation` is about as large as their coefficients may become.

    Args:
        prior_deviation: Standard deviation of every coefficient around its prior mean.
        prior_mean: Prior means by feature; 0 for those that are not named.
        noise: Standard deviation of the labels' noise.
        forgetting: Share of the information along a regressor that is kept at each sample, in
            (0, 1].
        nonnegative: Whether coefficients must not be negative.
        outlier_deviations: Innovations beyond this many standard deviations are clipped there.

    Examples:
        >>> from voltana.predictors.river_regressor import DirectionalLeastSquares
        >>> model = DirectionalLeastSquares(prior_deviation=10.0, noise=0.1)
        >>> for tokens in (1.0, 2.0, 3.0, 4.0):
        ...     model.learn_one({"one": 1.0, "tokens": tokens}, 3.0 + 2.0 * tokens)
        >>> round(model.predict_one({"one": 1.0, "tokens": 10.0}), 1)
        23.0
    """

    def __init__(
        self,
        *,
        prior_deviation: float = 1.0,
        prior_mean: Mapping[FeatureName, float] | None = None,
        noise: float = 1.0,
        forgetting: float = 0.998,
        nonnegative: bool = False,
        outlier_deviations: float = 1e6,
    ) -> None:
        self.prior_deviation = prior_deviation
        self.prior_mean = prior_mean
        self.noise = noise
        self.forgetting = forgetting
        self.nonnegative = nonnegative
        self.outlier_deviations = outlier_deviations
        self._index: dict[FeatureName, int] = {}
        self._squares = self._sized(0)

    def learn_one(self, x: dict[FeatureName, float], y: RegTarget) -> None:
        """Learn the label `y` of the features `x`."""
        new = [name for name in x if name not in self._index]
        if new:
            self._grow(new)
        self._squares.learn_vector(self._vector(x), float(y), self.noise)

    def predict_one(self, x: dict[FeatureName, float]) -> float:
        """Expected label of the features `x`; features never seen count with their prior mean."""
        known = self._squares.predict_vector(self._vector(x))
        prior = self.prior_mean or {}
        return known + sum(
            prior.get(name, 0.0) * value for name, value in x.items() if name not in self._index
        )

    @property
    def coefficients(self) -> dict[FeatureName, float]:
        """Coefficients by feature."""
        values = self._squares.coefficients
        return {name: float(values[i]) for name, i in self._index.items()}

    def _vector(self, x: dict[FeatureName, float]) -> FloatArray:
        vector = np.zeros(len(self._index))
        for name, value in x.items():
            index = self._index.get(name)
            if index is not None:
                vector[index] = value
        return vector

    def _grow(self, names: list[FeatureName]) -> None:
        # In a fixed order, so that the order within a dictionary does not change the rounding.
        for name in sorted(names, key=str):
            self._index[name] = len(self._index)
        grown = self._sized(len(self._index))
        grown.adopt(self._squares)
        self._squares = grown

    def _sized(self, count: int) -> RecursiveLeastSquares:
        prior = self.prior_mean or {}
        mean = np.array([prior.get(name, 0.0) for name in self._index], dtype=np.float64)
        return RecursiveLeastSquares(
            mean,
            np.full(count, float(self.prior_deviation)),
            forgetting=self.forgetting,
            nonnegative=np.full(count, self.nonnegative),
            outlier_deviations=self.outlier_deviations,
        )
