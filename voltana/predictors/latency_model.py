"""The latency model that EcoPred learns, as plain numbers: forecasts need nothing else.

This module needs NumPy alone, so a router or an engine process can use a snapshot without the
learner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voltana.predictors.features import (
    CLOCK_BASES,
    LOAD_FEATURES,
    bound_basis,
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

_CACHED_GRIDS = 16

Weights = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class BasisCache:
    """The clock bases of the grids that were asked for last; a pure function, remembered.

    Args:
        max_clock_mhz: Clock at which f_max / f is 1.
    """

    __slots__ = ("_known", "max_clock_mhz")

    def __init__(self, max_clock_mhz: float) -> None:
        self.max_clock_mhz = max_clock_mhz
        self._known: dict[tuple[bytes, float, float], tuple[Basis, Basis]] = {}

    def at(
        self, clocks_mhz: FloatArray, slowest_mhz: float, fastest_mhz: float
    ) -> tuple[Basis, Basis]:
        """Bases of the mean and of the bound at `clocks_mhz`, each of shape (3, n)."""
        key = (clocks_mhz.tobytes(), slowest_mhz, fastest_mhz)
        bases = self._known.get(key)
        if bases is None:
            if len(self._known) >= _CACHED_GRIDS:
                self._known.clear()
            bases = self._known[key] = (
                clock_basis(clocks_mhz, self.max_clock_mhz),
                bound_basis(clocks_mhz, self.max_clock_mhz, slowest_mhz, fastest_mhz),
            )
        return bases

    def __reduce__(self) -> tuple[type[BasisCache], tuple[float]]:
        # A copy starts empty: what is remembered can be computed again.
        return (BasisCache, (self.max_clock_mhz,))


class Phased(Protocol):
    """Coefficients and bound of one phase, frozen or live."""

    @property
    def weights(self) -> Weights:
        """Seconds per unit of each load feature (columns) and clock basis (rows)."""
        ...

    @property
    def margin(self) -> float:
        """Upper bound over mean, minus 1; inf while uncalibrated."""
        ...

    @property
    def slowest_mhz(self) -> float:
        """Slowest clock at which the model was tried."""
        ...

    @property
    def fastest_mhz(self) -> float:
        """Fastest clock at which the model was tried."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseModel:
    """A frozen `Phased`; the attributes are explained there."""

    weights: Weights
    margin: float
    slowest_mhz: float
    fastest_mhz: float

    @classmethod
    def of(cls, live: Phased) -> PhaseModel:
        """A copy of `live` that no longer changes."""
        return cls(
            weights=live.weights.copy(),
            margin=live.margin,
            slowest_mhz=live.slowest_mhz,
            fastest_mhz=live.fastest_mhz,
        )

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; None stands for an infinite margin."""
        return {
            "weights": self.weights.tolist(),
            "margin": self.margin if math.isfinite(self.margin) else None,
            "slowest_mhz": self.slowest_mhz,
            "fastest_mhz": self.fastest_mhz,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> PhaseModel:
        """Read what `to_dict` wrote."""
        weights = np.array(values["weights"], dtype=np.float64)
        margin = values["margin"]
        return cls(
            weights=weights.reshape(CLOCK_BASES, LOAD_FEATURES),
            margin=math.inf if margin is None else float(str(margin)),
            slowest_mhz=float(str(values["slowest_mhz"])),
            fastest_mhz=float(str(values["fastest_mhz"])),
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
    if load.prefill_tokens:
        phase, margin = prefill, prefill.margin
        if load.decode_requests:
            rows, cache = mixed_parts(load)
            by_basis = prefill.weights.dot(rows) + decode.weights.dot(cache)
            margin = max(margin, decode.margin)
        else:
            by_basis = prefill.weights.dot(
                prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
            )
    elif load.decode_requests:
        phase, margin = decode, decode.margin
        by_basis = decode.weights.dot(decode_features(load.decode_requests, load.decode_kv_tokens))
    else:
        idle = np.zeros(len(clocks_mhz))
        return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle.copy())
    basis, bounding = bases.at(clocks_mhz, phase.slowest_mhz, phase.fastest_mhz)
    mean_s = by_basis.dot(basis)
    if margin == math.inf:
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.full_like(mean_s, margin))
    upper_s = by_basis.dot(bounding)
    upper_s *= 1.0 + margin
    # Where the model forgets physics at clocks never tried, the bound must still cover the mean.
    return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.maximum(upper_s, mean_s))


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
