"""The latency model that EcoPred learns, as plain numbers: forecasts need nothing else.

This module needs NumPy alone, so a router or an engine process can use a snapshot without the
learner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from voltana.operating import PrefillLine
from voltana.predictors.ecopred.basis_cache import BasisCache
from voltana.predictors.ecopred.features import (
    FEATURES,
    HALF_TILE,
    SMALL_TILE,
    TILE,
    basis_at,
    decode_features,
    decode_features_of,
    mixed_parts,
    prefill_features,
    regressor,
)
from voltana.predictors.ecopred.mean_curve import MeanCurve, MeanLine, mean_at_rates
from voltana.predictors.ecopred.phase_model import Phased, PhaseModel
from voltana.values import Forecast
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.predictors.conformal.snapshot import Known
    from voltana.values import FloatArray, Load, Table

make_curve = tuple_maker(MeanCurve)

_Phase = TypeVar("_Phase", bound=Phased)


def forecast(  # noqa: PLR0917  (on the hot path)
    load: Load,
    clocks_mhz: FloatArray,
    bases: BasisCache,
    prefill: Phased,
    decode: Phased,
    beside: Phased,
) -> Forecast:
    """Latency of `load` at every clock: one product with the load, one with the clock bases.

    Args:
        load: What the iteration computes.
        clocks_mhz: Shape (n,).
        bases: Yields the clock bases.
        prefill: Model of prefill; of mixed batches too, plus the decode model's KV-cache term.
        decode: Model of decode.
        beside: Model of what decoding costs more in a mixed batch.
    """
    if not (load.prefill_tokens or load.decode_requests):
        idle = np.zeros(len(clocks_mhz))
        return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle.copy())
    phase, features, further = _parts(load, prefill, decode)
    columns = bases.at(clocks_mhz, phase.slowest_mhz, phase.fastest_mhz).bounds
    both_s = phase.predict_products(features, columns)
    count = len(clocks_mhz)
    deviation, unsure = phase.relative_deviation, 0.0
    if further is not None:
        cache, more = further
        both_s += decode.predict_products(cache, columns)
        both_s += beside.predict_products(more, columns)
        deviation = max(deviation, decode.relative_deviation)
        unsure = beside.variance(regressor(more, phase.fastest_mhz, bases.max_clock_mhz))
    tried_s = float(both_s[count])
    mean_s = both_s[:count]
    if deviation == math.inf or tried_s <= 0.0:
        unknown = np.full_like(mean_s, math.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=unknown)
    # The uncertainty of the model at this load is taken at one clock that was tried, so that the
    # bound falls with the clock as the mean does.
    x = regressor(features, phase.fastest_mhz, bases.max_clock_mhz)
    own = max(phase.variance(x) + unsure, 0.0) / (tried_s * tried_s)
    width = 1.0 + phase.bound_deviations * math.sqrt(deviation * deviation + own)
    upper_s = both_s[count + 1 :] * width
    # At clocks never tried the model may exceed physics; a bound covers its mean even so.
    return Forecast(
        clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.maximum(upper_s, mean_s, out=upper_s)
    )


def forecast_mean(  # noqa: PLR0917  (on the hot path)
    load: Load,
    clocks_mhz: FloatArray,
    bases: BasisCache,
    prefill: Phased,
    decode: Phased,
    beside: Phased,
) -> tuple[FloatArray, bool]:
    """The mean of `forecast`, and whether its bound is finite, for half of the time.

    Arguments are those of `forecast`.
    """
    if not (load.prefill_tokens or load.decode_requests):
        return np.zeros(len(clocks_mhz)), True
    phase, features, further = _parts(load, prefill, decode)
    columns = bases.at(clocks_mhz, phase.slowest_mhz, phase.fastest_mhz).means
    mean_s = phase.predict_products(features, columns)
    known = bool(mean_s[-1] > 0.0) and phase.relative_deviation < math.inf
    if further is not None:
        cache, more = further
        mean_s += decode.predict_products(cache, columns)
        mean_s += beside.predict_products(more, columns)
        known = known and decode.relative_deviation < math.inf
    return mean_s[:-1], known


def forecast_batches(
    requests: FloatArray,
    kv_tokens: FloatArray,
    clocks_mhz: FloatArray,
    bases: BasisCache,
    decode: PhaseModel,
) -> tuple[Table, Table]:
    """What `forecast` yields for decode batches, all in one product.

    Args:
        requests: Requests of each, shape (b,).
        kv_tokens: Tokens in their KV caches, shape (b,).
        clocks_mhz: Shape (n,).
        bases: Yields the clock bases.
        decode: Model of decode.
    """
    features = decode_features_of(requests, kv_tokens, decode.expert_share)
    columns = bases.at(clocks_mhz, decode.slowest_mhz, decode.fastest_mhz).bounds
    both_s = (decode.weights @ features).T @ columns
    count = len(clocks_mhz)
    mean_s, tried_s = both_s[:, :count], both_s[:, count]
    if decode.relative_deviation == math.inf:
        return mean_s, np.full_like(mean_s, math.inf)
    basis = np.array(basis_at(decode.fastest_mhz, bases.max_clock_mhz))
    x = (basis[:, None, None] * features).reshape(FEATURES, -1)
    variance = np.maximum(np.einsum("ib,ib->b", x, decode.covariance @ x), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = variance / (tried_s * tried_s)
    width = 1.0 + decode.bound_deviations * np.sqrt(decode.relative_deviation**2 + own)
    upper_s = np.maximum(both_s[:, count + 1 :] * width[:, None], mean_s)
    upper_s[tried_s <= 0.0] = math.inf
    return mean_s, upper_s


def batch_means(
    requests: FloatArray,
    kv_tokens: FloatArray,
    clocks_mhz: FloatArray,
    bases: BasisCache,
    decode: Phased,
) -> tuple[Table, Known]:
    """The means of `forecast_batches`, and of which batches its bound is finite.

    Arguments are those of `forecast_batches`.
    """
    features = bases.decode_features(requests, kv_tokens, decode.expert_share)
    columns = bases.at(clocks_mhz, decode.slowest_mhz, decode.fastest_mhz).means
    both_s = (decode.weights @ features).T @ columns
    # Row after row without a gap: whoever works on the table takes it in one go.
    mean_s, tried_s = np.ascontiguousarray(both_s[:, :-1]), both_s[:, -1:]
    if decode.relative_deviation == math.inf:
        return mean_s, False
    all_known = np.minimum.reduce(tried_s, axis=None, initial=math.inf) > 0.0
    return mean_s, bool(all_known) or tried_s > 0.0


def _parts(
    load: Load, prefill: _Phase, decode: _Phase
) -> tuple[_Phase, list[float], tuple[list[float], list[float]] | None]:
    """The model of a load, its features, and those of the further parts of a mixed one."""
    if not load.prefill_tokens:
        requests, kv_tokens = load.decode_requests, load.decode_kv_tokens
        return decode, decode_features(requests, kv_tokens, decode.expert_share), None
    share = prefill.expert_share
    if not load.decode_requests:
        pairs = load.prefill_attended_pairs
        return prefill, prefill_features(load.prefill_tokens, pairs, share), None
    features, cache, more = mixed_parts(load, share)
    return prefill, features, (cache, more)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencySnapshot:
    """A frozen latency model; satisfies `voltana.ports.PredictorSnapshot`.

    Attributes:
        prefill: Model of prefill.
        decode: Model of decode.
        beside: Model of what decoding costs more in a mixed batch.
        bases: Yields clock bases; may be shared, for it holds no state of the model.
    """

    prefill: PhaseModel
    decode: PhaseModel
    beside: PhaseModel
    bases: BasisCache
    _lines: dict[float, PrefillLine] = field(default_factory=dict, init=False, repr=False)

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return forecast(load, clocks_mhz, self.bases, self.prefill, self.decode, self.beside)

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, bool]:
        """See `voltana.predictors.conformal.snapshot.TellsMean.forecast_mean`."""
        return forecast_mean(load, clocks_mhz, self.bases, self.prefill, self.decode, self.beside)

    def forecast_batches(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Table]:
        """See `voltana.ports.TellsBatches`."""
        return forecast_batches(requests, kv_tokens, clocks_mhz, self.bases, self.decode)

    def batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsBatchMeans`."""
        return batch_means(requests, kv_tokens, clocks_mhz, self.bases, self.decode)

    def mean_curve(self, load: Load) -> MeanCurve | None:
        """See `voltana.predictors.conformal.snapshot.TellsMeanCurve.mean_curve`."""
        phase, features, further = _parts(load, self.prefill, self.decode)
        idle = not (load.prefill_tokens or load.decode_requests)
        if idle or further is not None or not phase.falls:
            return None
        curve = make_curve(phase.rates, features)
        lasts = phase.lasts or curve.mean_s(phase.fastest_mhz) > 0.0
        if lasts and phase.relative_deviation < math.inf:
            return curve
        return curve._replace(known=False)

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """See `voltana.ports.TellsExpected`; what `mean_curve` says there, where there is one."""
        phase, features, further = _parts(load, self.prefill, self.decode)
        if further is None and (load.prefill_tokens or load.decode_requests):
            return mean_at_rates(phase.rates[clock_mhz], features)
        return float(self.forecast_mean(load, np.array([clock_mhz]))[0][0])

    def alike(self, requests: int) -> int:
        """See `voltana.predictors.conformal.snapshot.TellsMeanLine.alike`."""
        return requests if self.decode.expert_share else -(-requests // SMALL_TILE)

    def mean_line(self, requests: int, clock_mhz: float) -> MeanLine | None:
        """See `voltana.predictors.conformal.snapshot.TellsMeanLine.mean_line`."""
        phase = self.decode
        if not (requests and phase.falls and phase.lasts and phase.relative_deviation < math.inf):
            return None
        features, rates = decode_features(requests, 0, phase.expert_share), phase.rates[clock_mhz]
        return MeanLine(mean_at_rates(rates, features), rates[-1])

    def prefill_mean(self, clock_mhz: float) -> PrefillLine:
        """See `voltana.ports.TellsPrefill`."""
        line = self._lines.get(clock_mhz)
        if line is None:
            rates, untouched = self.prefill.rates[clock_mhz], 1.0 - self.prefill.expert_share
            line = self._lines[clock_mhz] = PrefillLine._make((*rates, untouched, HALF_TILE, TILE))
        return line

    def to_dict(self) -> Mapping[str, object]:
        """The model as plain JSON values; `from_dict` reads it."""
        return {
            "max_clock_mhz": self.bases.max_clock_mhz,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "beside": self.beside.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> LatencySnapshot:
        """Read what `to_dict` wrote.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
        """
        prefill, decode, beside = values["prefill"], values["decode"], values.get("beside")
        if not (isinstance(prefill, dict) and isinstance(decode, dict)):
            raise TypeError("prefill and decode must be tables")
        max_clock_mhz = float(str(values["max_clock_mhz"]))
        read = PhaseModel.from_dict(decode, max_clock_mhz)
        return cls(
            prefill=PhaseModel.from_dict(prefill, max_clock_mhz),
            decode=read,
            # Models of earlier versions took mixed batches to cost nothing more.
            beside=PhaseModel.from_dict(beside, max_clock_mhz)
            if isinstance(beside, dict)
            else read.without_time(),
            bases=BasisCache(max_clock_mhz),
        )
