"""The latency model that EcoPred learns, as plain numbers: forecasts need nothing else.

This module needs NumPy alone, so a router or an engine process can use a snapshot without the
learner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.predictors.features import (
    CLOCK_BASES,
    LOAD_FEATURES,
    clock_basis,
    decode_features,
    mixed_parts,
    prefill_features,
)
from voltana.values import Forecast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.predictors.features import Basis
    from voltana.values import FloatArray, Load

_LAST_KV_FEATURE = LOAD_FEATURES - 1
_CACHED_GRIDS = 8

Weights = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class BasisCache:
    """The clock bases of the grids that were asked for last; a pure function, remembered.

    Args:
        max_clock_mhz: Clock at which f_max / f is 1.
    """

    __slots__ = ("_known", "max_clock_mhz")

    def __init__(self, max_clock_mhz: float) -> None:
        self.max_clock_mhz = max_clock_mhz
        self._known: dict[bytes, Basis] = {}

    def at(self, clocks_mhz: FloatArray) -> Basis:
        """Bases at `clocks_mhz`, shape (3, n)."""
        key = clocks_mhz.tobytes()
        basis = self._known.get(key)
        if basis is None:
            if len(self._known) >= _CACHED_GRIDS:
                self._known.clear()
            basis = self._known[key] = clock_basis(clocks_mhz, self.max_clock_mhz)
        return basis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseModel:
    """Coefficients and bound of one phase.

    Attributes:
        weights: Seconds per unit of each load feature and clock basis, shape (3, 4).
        margin: Upper bound over mean, minus 1; inf while uncalibrated.
    """

    weights: Weights
    margin: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; None stands for an infinite margin."""
        return {
            "weights": self.weights.tolist(),
            "margin": self.margin if math.isfinite(self.margin) else None,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> PhaseModel:
        """Read what `to_dict` wrote."""
        weights = np.array(values["weights"], dtype=np.float64)
        margin = values["margin"]
        return cls(
            weights=weights.reshape(CLOCK_BASES, LOAD_FEATURES),
            margin=math.inf if margin is None else float(str(margin)),
        )


def forecast(
    load: Load, clocks_mhz: FloatArray, basis: Basis, prefill: PhaseModel, decode: PhaseModel
) -> Forecast:
    """Latency of `load` at every clock: a product with the load, one with the bases, one scaling.

    Args:
        load: What the iteration computes.
        clocks_mhz: Shape (n,).
        basis: `voltana.predictors.features.clock_basis` of it, shape (3, n).
        prefill: Model of prefill.
        decode: Model of decode.
    """
    if load.prefill_tokens:
        if load.decode_requests:
            rows, cache = mixed_parts(load)
            by_basis = prefill.weights.dot(rows) + decode.weights.dot(cache)
            margin = max(prefill.margin, decode.margin)
        else:
            by_basis = prefill.weights.dot(
                prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
            )
            margin = prefill.margin
    elif load.decode_requests:
        by_basis = decode.weights.dot(decode_features(load.decode_requests, load.decode_kv_tokens))
        margin = decode.margin
    else:
        idle = np.zeros(len(clocks_mhz))
        return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle)
    mean = by_basis.dot(basis)
    upper = mean * (1.0 + margin) if margin < math.inf else np.full_like(mean, math.inf)
    return Forecast(clocks_mhz=clocks_mhz, mean_s=mean, upper_s=upper)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencySnapshot:
    """A frozen latency model; satisfies `voltana.ports.PredictorSnapshot`.

    Attributes:
        max_clock_mhz: Clock at which f_max / f is 1.
        prefill: Model of prefill.
        decode: Model of decode.
        bases: Remembers clock bases; shared with the predictor, holds no state of the model.
    """

    max_clock_mhz: float
    prefill: PhaseModel
    decode: PhaseModel
    bases: BasisCache

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return forecast(load, clocks_mhz, self.bases.at(clocks_mhz), self.prefill, self.decode)

    def to_dict(self) -> Mapping[str, object]:
        """The model as plain JSON values; `from_dict` reads it."""
        return {
            "max_clock_mhz": self.max_clock_mhz,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> LatencySnapshot:
        """Read what `to_dict` wrote."""
        max_clock_mhz = float(str(values["max_clock_mhz"]))
        prefill, decode = values["prefill"], values["decode"]
        if not (isinstance(prefill, dict) and isinstance(decode, dict)):
            raise TypeError("prefill and decode must be tables")
        return cls(
            max_clock_mhz=max_clock_mhz,
            prefill=PhaseModel.from_dict(prefill),
            decode=PhaseModel.from_dict(decode),
            bases=BasisCache(max_clock_mhz),
        )
