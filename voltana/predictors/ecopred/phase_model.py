"""The latency model of one phase, as plain numbers: what `latency_model` puts together.

This module needs NumPy alone, as `latency_model` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voltana.predictors.ecopred.features import CLOCK_BASES, FEATURES, LOAD_FEATURES, basis_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import FloatArray

Weights = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Phased(Protocol):
    """Coefficients and bound of one phase, frozen or live."""

    @property
    def weights(self) -> Weights:
        """Seconds per unit of each load feature (columns) and clock basis (rows); to be read."""
        ...

    @property
    def relative_deviation(self) -> float:
        """Standard deviation of the residuals over the mean; inf while uncalibrated."""
        ...

    @property
    def bound_deviations(self) -> float:
        """Width of the upper bound, in standard deviations."""
        ...

    @property
    def slowest_mhz(self) -> float:
        """Slowest clock at which the model was tried."""
        ...

    @property
    def fastest_mhz(self) -> float:
        """Fastest clock at which the model was tried."""
        ...

    @property
    def expert_share(self) -> float:
        """Share of the experts that a token uses; 0 of a dense model."""
        ...

    def variance(self, x: FloatArray) -> float:
        """Variance of the mean for the regressor `x`, from the uncertainty of the weights."""
        ...

    def predict_products(self, load: Sequence[float], bases: Weights) -> FloatArray:
        """Mean for the products of each column of `bases` with the features `load`, shape (n,)."""
        ...


class Rates(dict[float, list[float]]):
    """Seconds per unit of each load feature, by clock; worked out at the first look at a clock.

    Args:
        weights: Those of a model that no longer changes.
        max_clock_mhz: Clock at which f_max / f is 1.
    """

    def __init__(self, weights: Weights, max_clock_mhz: float) -> None:
        super().__init__()
        self._weights = weights
        self._max_clock_mhz = max_clock_mhz

    def __missing__(self, clock_mhz: float) -> list[float]:
        basis = np.array(basis_at(clock_mhz, self._max_clock_mhz))
        rates: list[float] = basis.dot(self._weights).tolist()
        self[clock_mhz] = rates
        return rates


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseModel:
    """A frozen `Phased`, where the other attributes are explained.

    Attributes:
        weights: See `Phased`.
        covariance: Covariance of the weights, row by row, shape (FEATURES, FEATURES).
        relative_deviation: See `Phased`.
        bound_deviations: See `Phased`.
        slowest_mhz: See `Phased`.
        fastest_mhz: See `Phased`.
        max_clock_mhz: Clock at which f_max / f is 1.
        expert_share: See `Phased`.
        rates: Seconds per unit of each load feature, by clock.
        falls: Whether the mean never rises with the clock, as with all that `PhaseLearner` yields.
        lasts: Whether the mean is above 0 and never falls with the load, likewise.
    """

    weights: Weights
    covariance: Weights
    relative_deviation: float
    bound_deviations: float
    slowest_mhz: float
    fastest_mhz: float
    max_clock_mhz: float
    expert_share: float = 0.0
    rates: Rates = field(init=False, repr=False)
    falls: bool = field(init=False)
    lasts: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look at the signs once."""
        object.__setattr__(self, "rates", Rates(self.weights, self.max_clock_mhz))
        constant, *moving = self.weights.tolist()
        falls = min(map(min, moving)) >= 0.0
        object.__setattr__(self, "falls", falls)
        lasts = falls and min(constant) >= 0.0 and constant[0] + moving[0][0] > 0.0
        object.__setattr__(self, "lasts", lasts)

    def variance(self, x: FloatArray) -> float:
        """See `Phased.variance`."""
        return float(x.dot(self.covariance.dot(x)))

    def predict_products(self, load: Sequence[float], bases: Weights) -> FloatArray:
        """See `Phased.predict_products`."""
        mean_s: FloatArray = self.weights.dot(load).dot(bases)
        return mean_s

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; None stands for an infinite deviation."""
        known = math.isfinite(self.relative_deviation)
        return {
            "weights": self.weights.tolist(),
            "covariance": self.covariance.tolist(),
            "relative_deviation": self.relative_deviation if known else None,
            "bound_deviations": self.bound_deviations,
            "slowest_mhz": self.slowest_mhz,
            "fastest_mhz": self.fastest_mhz,
            "expert_share": self.expert_share,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object], max_clock_mhz: float) -> PhaseModel:
        """Read what `to_dict` wrote.

        Args:
            values: What it wrote.
            max_clock_mhz: See above; one for all phases of a model.

        Raises:
            ValueError: If a share is none.
        """
        numbers = {
            name: float(str(values[name]))
            for name in ("bound_deviations", "slowest_mhz", "fastest_mhz")
        }
        deviation = values["relative_deviation"]
        numbers["expert_share"] = share = float(str(values.get("expert_share", 0.0)))
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"expert_share of a phase is {share:g}: must be from 0 to 1")
        return cls(
            weights=np.array(values["weights"], np.float64).reshape(CLOCK_BASES, LOAD_FEATURES),
            covariance=np.array(values["covariance"], np.float64).reshape(FEATURES, FEATURES),
            relative_deviation=math.inf if deviation is None else float(str(deviation)),
            max_clock_mhz=max_clock_mhz,
            **numbers,
        )

    def without_time(self) -> PhaseModel:
        """A model of what takes no time, at the same clocks."""
        return replace(
            self, weights=np.zeros_like(self.weights), covariance=np.zeros_like(self.covariance)
        )
