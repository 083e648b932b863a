"""What EcoPred learns with unless it is given a regressor: a linear model for each phase."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.predictors.ecopred.basis_cache import BasisCache
from voltana.predictors.ecopred.features import (
    BESIDE_PRODUCTS,
    DECODE_NAMES,
    DECODE_PRODUCTS,
    PREFILL_NAMES,
    PREFILL_PRODUCTS,
    decode_features,
    mixed_parts,
    prefill_features,
)
from voltana.predictors.ecopred.latency_model import (
    LatencySnapshot,
    batch_means,
    forecast,
    forecast_mean,
)
from voltana.predictors.ecopred.like_labels import LikeLabels
from voltana.predictors.ecopred.phase_learner import PhaseLearner
from voltana.predictors.ecopred.prior import beside_prior, flat_decode_prior, flat_prefill_prior

if TYPE_CHECKING:
    from voltana.predictors.conformal.snapshot import Known
    from voltana.predictors.ecopred.prior import Prior
    from voltana.predictors.profile import PhaseProfile
    from voltana.values import FloatArray, Forecast, Load, Outcome, Table


WORTH = 0.2
"""Weight in the estimate, against what is known, from which labels are learned."""

MOST_GATHERED = 8
"""Labels that wait to be learned at most."""


class LinearLatency:
    """Prefill and decode, each learned by `DirectionalLeastSquares`; satisfies `Predictor`.

    Mixed batches are learned by both, and by a third for what decoding costs more beside prompts.

    Args:
        prefill: Prior of prefill; None for none.
        decode: Prior of decode; None for none.
        max_clock_mhz: Clock at which f_max / f is 1.
        forgetting: See `DirectionalLeastSquares`.
        bound_deviations: Width of the upper bound, in standard deviations of the residuals.
    """

    def __init__(
        self,
        prefill: Prior | None,
        decode: Prior | None,
        *,
        max_clock_mhz: float,
        forgetting: float,
        bound_deviations: float,
    ) -> None:
        self.prefill, self.decode, self.beside = (
            PhaseLearner(
                names,
                prior,
                max_clock_mhz=max_clock_mhz,
                forgetting=forgetting,
                bound_deviations=bound_deviations,
            )
            for names, prior in (
                (PREFILL_PRODUCTS, prefill or flat_prefill_prior()),
                (DECODE_PRODUCTS, decode or flat_decode_prior()),
                (BESIDE_PRODUCTS, beside_prior()),
            )
        )
        self._gathered = LikeLabels()
        self._worth_learning = 1
        self._bases = BasisCache(max_clock_mhz)
        self._frozen: LatencySnapshot | None = None  # of the phases as they were frozen last

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return forecast(load, clocks_mhz, self._bases, self.prefill, self.decode, self.beside)

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, bool]:
        """See `voltana.predictors.conformal.snapshot.TellsMean.forecast_mean`."""
        return forecast_mean(load, clocks_mhz, self._bases, self.prefill, self.decode, self.beside)

    def batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsBatchMeans`."""
        return batch_means(requests, kv_tokens, clocks_mhz, self._bases, self.decode)

    def learn(self, outcome: Outcome) -> None:
        """Learn from one iteration, at the clock that was achieved; broken labels are dropped."""
        load, clock_mhz, latency_s = outcome.load, outcome.clock_mhz, outcome.latency_s
        if not (0.0 < latency_s < math.inf and 0.0 < clock_mhz < math.inf):
            return
        if load.prefill_tokens:
            if load.decode_requests:
                self._learn_mixed(load, clock_mhz, latency_s)
                return
            self.prefill.learn(self._prefill_features(load), clock_mhz, [latency_s])
        elif load.decode_requests:
            self._learn_decode(self._decode_features(load), clock_mhz, latency_s)

    def _learn_decode(self, features: list[float], clock_mhz: float, latency_s: float) -> None:
        """Learn one label of decode, or gather it where so few like it hardly move the model."""
        gathered = self._gathered
        if not gathered.add(features, clock_mhz, latency_s):
            self._learn_gathered()
            gathered.begin(features, clock_mhz, latency_s, most_off=self.decode.most_off)
        if len(gathered.latencies_s) >= self._worth_learning:
            self._learn_gathered()

    def _learn_gathered(self) -> None:
        if self._gathered.latencies_s:
            features, clock_mhz, latencies_s = self._gathered.take()
            self.decode.learn(features, clock_mhz, latencies_s)
            spread = max(self.decode.squares.spread / len(latencies_s), 1e-9)
            self._worth_learning = min(max(int(WORTH / spread), 1), MOST_GATHERED)

    def snapshot(self) -> LatencySnapshot:
        """A frozen copy, which later learning does not change; the same one until there is some."""
        prefill, decode, last = self.prefill.frozen(), self.decode.frozen(), self._frozen
        beside = self.beside.frozen()  # which learns with the prefill model alone
        if last is None or last.prefill is not prefill or last.decode is not decode:
            last = LatencySnapshot(prefill=prefill, decode=decode, beside=beside, bases=self._bases)
            self._frozen = last
        return last

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """Expected latency at one clock: what `forecast` yields there, for less; 0 when idle."""
        if load.prefill_tokens:
            if load.decode_requests:
                return sum(self._expected_parts(load, clock_mhz))
            return self.prefill.expected_s(self._prefill_features(load), clock_mhz)
        if not load.decode_requests:
            return 0.0
        return self.decode.expected_s(self._decode_features(load), clock_mhz)

    def reopen(self, factor: float, relative_error: float) -> None:
        """Doubt what was learned; see `voltana.predictors.drift.Reopenable.reopen`."""
        self._learn_gathered()
        self.prefill.reopen(factor, relative_error)
        self.decode.reopen(factor, relative_error)
        self.beside.reopen(factor, relative_error)

    def to_profiles(self) -> tuple[PhaseProfile | None, PhaseProfile | None]:
        """What was learned of prefill and of decode; None where that is nothing."""
        self._learn_gathered()
        return self.prefill.to_profile(PREFILL_NAMES), self.decode.to_profile(DECODE_NAMES)

    @property
    def labels(self) -> tuple[int, int]:
        """Labels that prefill and decode have learned."""
        gathered = len(self._gathered.latencies_s)
        return self.prefill.scale.labels, self.decode.scale.labels + gathered

    def _prefill_features(self, load: Load) -> list[float]:
        tokens, pairs = load.prefill_tokens, load.prefill_attended_pairs
        return prefill_features(tokens, pairs, self.prefill.expert_share)

    def _decode_features(self, load: Load) -> list[float]:
        requests, kv_tokens = load.decode_requests, load.decode_kv_tokens
        return decode_features(requests, kv_tokens, self.decode.expert_share)

    def _expected_parts(self, load: Load, clock_mhz: float) -> tuple[float, float, float]:
        """Expected latency of the parts of a mixed batch: its rows, the cache, what is on top."""
        rows, cache, more = mixed_parts(load, self.prefill.expert_share)
        return (
            self.prefill.expected_s(rows, clock_mhz),
            self.decode.expected_s(cache, clock_mhz),
            self.beside.expected_s(more, clock_mhz),
        )

    def _learn_mixed(self, load: Load, clock_mhz: float, latency_s: float) -> None:
        """Teach what is left once the decode requests' KV cache has been read."""
        rows, _, more = mixed_parts(load, self.prefill.expert_share)
        rows_s, cache_s, more_s = self._expected_parts(load, clock_mhz)
        if latency_s <= cache_s:
            return
        rows_variance = self.prefill.variance_of(rows, clock_mhz)
        more_variance = self.beside.variance_of(more, clock_mhz)
        self.prefill.learn(
            rows, clock_mhz, [latency_s - cache_s - more_s],
            rest_s=cache_s + more_s, rest_variance=more_variance,
        )  # fmt: skip
        self.beside.learn(
            more, clock_mhz, [latency_s - cache_s - rows_s],
            rest_s=cache_s + rows_s, rest_variance=rows_variance,
        )  # fmt: skip
