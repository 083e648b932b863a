"""What EcoPred learns of one phase: coefficients, the scale of residuals, the clocks tried."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.predictors.ecopred.clock_range import ClockRange
from voltana.predictors.ecopred.features import CLOCK_BASES, LOAD_FEATURES, regressor
from voltana.predictors.ecopred.phase_model import PhaseModel
from voltana.predictors.ecopred.residual_scale import ResidualScale
from voltana.predictors.least_squares import DirectionalLeastSquares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.predictors.ecopred.phase_model import Weights
    from voltana.predictors.ecopred.prior import Prior
    from voltana.predictors.profile import PhaseProfile
    from voltana.values import FloatArray

NOISE = 0.03
"""Relative noise of a measured latency that samples are weighed with."""

_ABSOLUTE_TO_STANDARD = 1.2533
"""Standard deviation of a Gaussian over its mean absolute value, sqrt(pi / 2)."""


class PhaseLearner:
    """Learns one phase; a live `voltana.predictors.ecopred.phase_model.Phased`.

    Args:
        names: Names of the products that make up the regressor, in its order.
        prior: Where it starts.
        max_clock_mhz: Clock at which f_max / f is 1.
        forgetting: See `DirectionalLeastSquares`.
        bound_deviations: Width of the upper bound, in standard deviations of the residuals.

    Attributes:
        squares: The regressor that learns.
        expert_share: See `Phased`.
        relative_deviation: See `Phased`.
        scale: Scale of its residuals.
        slowest_mhz: See `Phased`.
        fastest_mhz: See `Phased`.
    """

    __slots__ = (
        "_bound_deviations", "_clocks", "_frozen", "_max_clock_mhz", "expert_share",
        "fastest_mhz", "relative_deviation", "scale", "slowest_mhz", "squares",
    )  # fmt: skip

    def __init__(
        self,
        names: tuple[str, ...],
        prior: Prior,
        *,
        max_clock_mhz: float,
        forgetting: float,
        bound_deviations: float,
    ) -> None:
        self.squares = DirectionalLeastSquares(
            features=names,
            prior_mean=dict(zip(names, prior.mean.tolist(), strict=True)),
            prior_deviation=dict(zip(names, prior.deviation.tolist(), strict=True)),
            forgetting=forgetting,
            nonnegative=True,
        )
        self.expert_share = prior.expert_share
        self.scale = ResidualScale(prior.relative_error)
        self.relative_deviation = _ABSOLUTE_TO_STANDARD * self.scale.value
        self._clocks = ClockRange(max_clock_mhz)
        if prior.tried_mhz is not None:
            self._clocks.trust(*prior.tried_mhz)
        self.slowest_mhz, self.fastest_mhz = self._clocks.slowest_mhz, self._clocks.fastest_mhz
        self._max_clock_mhz = max_clock_mhz
        self._bound_deviations = bound_deviations
        self._frozen: PhaseModel | None = None

    @property
    def weights(self) -> Weights:
        """See `Phased.weights`."""
        return self.squares.coefficients.reshape(CLOCK_BASES, LOAD_FEATURES)

    @property
    def bound_deviations(self) -> float:
        """See `Phased.bound_deviations`."""
        return self._bound_deviations

    def variance(self, x: FloatArray) -> float:
        """See `Phased.variance`."""
        return self.squares.variance(x)

    def predict_products(self, load: Sequence[float], bases: Weights) -> FloatArray:
        """See `Phased.predict_products`."""
        return self.squares.predict_products(load, bases)

    def expected_s(self, features: list[float], clock_mhz: float) -> float:
        """Expected latency of a load at one clock."""
        return self.squares.predict_vector(regressor(features, clock_mhz, self._max_clock_mhz))

    def variance_of(self, features: list[float], clock_mhz: float) -> float:
        """Variance of `expected_s`, from the uncertainty of the weights."""
        return self.squares.variance(regressor(features, clock_mhz, self._max_clock_mhz))

    def learn(
        self,
        features: list[float],
        clock_mhz: float,
        latencies_s: Sequence[float],
        *,
        rest_s: float = 0.0,
        rest_variance: float = 0.0,
    ) -> None:
        """Learn labels at the clock that was achieved: one, or several that hardly differ.

        Args:
            features: See `voltana.predictors.ecopred.features`; of several labels their mean.
            clock_mhz: The clock.
            latencies_s: The labels, at least one; of an iteration that several models share, what
                this one is left.
            rest_s: What the others expect.
            rest_variance: Variance of that. It is noise to this model, so that what nobody expected
                is learned by the model that is least sure: least squares with a covariance that is
                block-diagonal.
        """
        x = regressor(features, clock_mhz, self._max_clock_mhz)
        expected_s = self.squares.predict_vector(x)
        labels = len(latencies_s)
        mean_s = sum(latencies_s) / labels
        # Noise is a share of the latency. While the model still expects too little, the label
        # itself says how much that is.
        noise_s = NOISE * (rest_s + max(expected_s, mean_s)) / math.sqrt(labels)
        self.squares.learn_vector(
            x,
            mean_s,
            math.hypot(noise_s, math.sqrt(rest_variance)) if rest_variance > 0.0 else noise_s,
            labels=labels,
            # None stands out from the others: it is clipped where each of them would have been.
            tolerance=self._tolerance * math.sqrt(labels),
            expected=expected_s,
        )
        whole_s = max(rest_s + expected_s, 1e-9)
        for latency_s in latencies_s:
            self.scale.update(abs(latency_s - expected_s) / whole_s)
        self.relative_deviation = _ABSOLUTE_TO_STANDARD * self.scale.value
        self._clocks.update(clock_mhz)
        self.slowest_mhz, self.fastest_mhz = self._clocks.slowest_mhz, self._clocks.fastest_mhz
        self._frozen = None

    @property
    def most_off(self) -> float:
        """Share of a latency by which labels differ that do not stand out."""
        return self.squares.outlier_deviations * NOISE * self._tolerance

    def frozen(self) -> PhaseModel:
        """A copy that no longer changes; the same one until something is learned."""
        if self._frozen is None:
            self._frozen = PhaseModel(
                weights=self.weights.copy(),
                covariance=self.squares.covariance,
                relative_deviation=self.relative_deviation,
                bound_deviations=self._bound_deviations,
                slowest_mhz=self.slowest_mhz,
                fastest_mhz=self.fastest_mhz,
                max_clock_mhz=self._max_clock_mhz,
                expert_share=self.expert_share,
            )
        return self._frozen

    @property
    def _tolerance(self) -> float:
        """How many times as large residuals have been as `NOISE` says."""
        return max(1.0, self.scale.estimate * (_ABSOLUTE_TO_STANDARD / NOISE))

    def to_profile(self, names: tuple[str, ...]) -> PhaseProfile | None:
        """What was learned, by the names of the load features; None if that is nothing."""
        from voltana.predictors.profile import (  # noqa: PLC0415  (pydantic, for files alone)
            FitErrors,
            PhaseProfile,
            to_table,
        )

        if not self.scale.labels:
            return None
        return PhaseProfile(
            coefficients_s=to_table(self.squares.coefficients, names),
            deviations_s=to_table(np.sqrt(self.squares.covariance.diagonal()), names),
            slowest_mhz=self.slowest_mhz,
            fastest_mhz=self.fastest_mhz,
            expert_share=self.expert_share,
            errors=FitErrors(
                samples=self.scale.labels,
                mean_relative_error=self.scale.estimate,
            ),
        )

    def reopen(self, factor: float, relative_error: float) -> None:
        """Doubt what was learned: widen the bound and let the coefficients move again."""
        self.squares.reopen(factor)
        self.scale.widen(relative_error)
        self.relative_deviation = _ABSOLUTE_TO_STANDARD * self.scale.value
        self._clocks.restart()
        self._frozen = None
