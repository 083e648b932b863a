"""The latency model that EcoPred learns, as plain numbers: forecasts need nothing else.

This module needs NumPy alone, so a router or an engine process can use a snapshot without the
learner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voltana.predictors.ecopred.basis_cache import BasisCache
from voltana.predictors.ecopred.features import (
    CLOCK_BASES,
    FEATURES,
    LOAD_FEATURES,
    decode_features,
    mixed_parts,
    prefill_features,
    regressor,
)
from voltana.values import Forecast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray, Load

Weights = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Phased(Protocol):
    """Coefficients and bound of one phase, frozen or live."""

    @property
    def weights(self) -> Weights:
        """Seconds per unit of each load feature (columns) and clock basis (rows)."""
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

    def variance(self, x: FloatArray) -> float:
        """Variance of the mean for the regressor `x`, from the uncertainty of the weights."""
        ...


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
    """

    weights: Weights
    covariance: Weights
    relative_deviation: float
    bound_deviations: float
    slowest_mhz: float
    fastest_mhz: float

    def variance(self, x: FloatArray) -> float:
        """See `Phased.variance`."""
        return float(x.dot(self.covariance.dot(x)))

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
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> PhaseModel:
        """Read what `to_dict` wrote."""
        numbers = {
            name: float(str(values[name]))
            for name in ("bound_deviations", "slowest_mhz", "fastest_mhz")
        }
        deviation = values["relative_deviation"]
        return cls(
            weights=np.array(values["weights"], np.float64).reshape(CLOCK_BASES, LOAD_FEATURES),
            covariance=np.array(values["covariance"], np.float64).reshape(FEATURES, FEATURES),
            relative_deviation=math.inf if deviation is None else float(str(deviation)),
            **numbers,
        )


def forecast(
    load: Load, clocks_mhz: FloatArray, bases: BasisCache, prefill: Phased, decode: Phased
) -> Forecast:
    """Latency of `load` at every clock: one product with the load, two with the clock bases.

    Args:
        load: What the iteration computes.
        clocks_mhz: Shape (n,).
        bases: Yields the clock bases.
        prefill: Model of prefill; of mixed batches too, plus the decode model's KV-cache term.
        decode: Model of decode.
    """
    phase, deviation = prefill, prefill.relative_deviation
    if load.prefill_tokens:
        if load.decode_requests:
            features, cache = mixed_parts(load)
            by_basis = prefill.weights.dot(features) + decode.weights.dot(cache)
            deviation = max(deviation, decode.relative_deviation)
        else:
            features = prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
            by_basis = prefill.weights.dot(features)
    elif load.decode_requests:
        phase, deviation = decode, decode.relative_deviation
        features = decode_features(load.decode_requests, load.decode_kv_tokens)
        by_basis = decode.weights.dot(features)
    else:
        idle = np.zeros(len(clocks_mhz))
        return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle.copy())
    basis, bounding = bases.at(clocks_mhz, phase.slowest_mhz, phase.fastest_mhz)
    mean_s = by_basis.dot(basis)
    deviation = _deviation(phase, features, bases.max_clock_mhz, deviation)
    if deviation == math.inf:
        return Forecast(
            clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.full_like(mean_s, math.inf)
        )
    upper_s = by_basis.dot(bounding)
    upper_s *= 1.0 + phase.bound_deviations * deviation
    # At clocks never tried the model may exceed physics; a bound covers its mean even so.
    return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.maximum(upper_s, mean_s))


def _deviation(
    phase: Phased, features: list[float], max_clock_mhz: float, residual: float
) -> float:
    """Standard deviation over mean: of the residuals, and of the model at this load.

    The latter is taken at one clock that was tried, so that the bound falls with the clock as the
    mean does.
    """
    if residual == math.inf:
        return math.inf
    x = regressor(features, phase.fastest_mhz, max_clock_mhz)
    mean_s = float(phase.weights.ravel().dot(x))
    if mean_s <= 0.0:
        return math.inf
    return math.sqrt(residual * residual + max(phase.variance(x), 0.0) / (mean_s * mean_s))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencySnapshot:
    """A frozen latency model; satisfies `voltana.ports.PredictorSnapshot`.

    Attributes:
        prefill: Model of prefill.
        decode: Model of decode.
        bases: Yields clock bases; may be shared, for it holds no state of the model.
    """

    prefill: PhaseModel
    decode: PhaseModel
    bases: BasisCache

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return forecast(load, clocks_mhz, self.bases, self.prefill, self.decode)

    def to_dict(self) -> Mapping[str, object]:
        """The model as plain JSON values; `from_dict` reads it."""
        return {
            "max_clock_mhz": self.bases.max_clock_mhz,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> LatencySnapshot:
        """Read what `to_dict` wrote.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
        """
        prefill, decode = values["prefill"], values["decode"]
        if not (isinstance(prefill, dict) and isinstance(decode, dict)):
            raise TypeError("prefill and decode must be tables")
        return cls(
            prefill=PhaseModel.from_dict(prefill),
            decode=PhaseModel.from_dict(decode),
            bases=BasisCache(float(str(values["max_clock_mhz"]))),
        )
