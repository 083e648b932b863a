"""EcoPred: latency of prefill and decode iterations at any clock, learned online.

After VoltanaLLM's EcoPred (arXiv 2509.04827), which fits one table per profiled clock: here one
clock-aware linear model per phase shares what is learned among all clocks, and recursive least
squares keep it current.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from voltana.errors import invalid
from voltana.predictors.ecopred.basis_cache import BasisCache
from voltana.predictors.ecopred.features import (
    DECODE_NAMES,
    PREFILL_NAMES,
    decode_features,
    mixed_parts,
    prefill_features,
)
from voltana.predictors.ecopred.latency_model import LatencySnapshot, forecast
from voltana.predictors.ecopred.phase_learner import PhaseLearner
from voltana.predictors.ecopred.prior import (
    decode_prior,
    flat_decode_prior,
    flat_prefill_prior,
    prefill_prior,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from voltana.predictors.ecopred.prior import Prior
    from voltana.predictors.profile import PredictorProfile, Stack
    from voltana.values import FloatArray, Forecast, Load, Outcome


FORGETTING = 0.98
"""Share of the information along a regressor that is kept at each sample.

Forgetting is directional and there are about ten directions, so this remembers some 500 labels. A
slower one is hardly more accurate (on the plant 0.998 gains 0.03 ms), but takes thousands of labels
to follow a machine that changed.
"""


class EcoPred:
    """Online latency model; satisfies `voltana.ports.Predictor`.

    Without arguments it knows nothing and gives infinite upper bounds until it has learned. Use
    `from_datasheet` or `from_profile` to start warm.

    Args:
        max_clock_mhz: The device's fastest clock, at which f_max / f is 1.
        prefill: Prior of prefill; None for none.
        decode: Prior of decode; None for none.
        forgetting: Share of the information along a regressor that is kept at each sample.
        bound_deviations: Width of the upper bound, in standard deviations of the residuals.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        *,
        max_clock_mhz: float = 1410.0,
        prefill: Prior | None = None,
        decode: Prior | None = None,
        forgetting: float = FORGETTING,
        bound_deviations: float = 2.5,
    ) -> None:
        if not 0 < max_clock_mhz < math.inf:
            raise invalid("max_clock_mhz", max_clock_mhz, "above 0", "Ask the device for it.")
        if not bound_deviations >= 0:
            raise invalid("bound_deviations", bound_deviations, "0 or more", "2.5 is usual.")
        self.max_clock_mhz = max_clock_mhz
        priors = (prefill or flat_prefill_prior(), decode or flat_decode_prior())
        self._prefill, self._decode = (
            PhaseLearner(
                prior,
                max_clock_mhz=max_clock_mhz,
                forgetting=forgetting,
                bound_deviations=bound_deviations,
            )
            for prior in priors
        )
        self._bases = BasisCache(max_clock_mhz)

    @classmethod
    def from_datasheet(
        cls,
        datasheet: Mapping[str, float],
        *,
        forgetting: float = FORGETTING,
        bound_deviations: float = 2.5,
    ) -> EcoPred:
        """Start from physics.

        Args:
            datasheet: Published numbers, see `voltana.predictors.ecopred.Datasheet`.
            forgetting: See the class.
            bound_deviations: See the class.

        Raises:
            ConfigError: If the datasheet lacks a number.
        """
        return cls(
            prefill=prefill_prior(datasheet),
            decode=decode_prior(datasheet),
            max_clock_mhz=datasheet["max_clock_mhz"],
            forgetting=forgetting,
            bound_deviations=bound_deviations,
        )

    @classmethod
    def from_profile(
        cls,
        path: str | Path,
        *,
        expect: Stack | None = None,
        mismatch: Literal["refuse", "prior"] = "refuse",
        forgetting: float = FORGETTING,
        bound_deviations: float = 2.5,
    ) -> EcoPred:
        """Start from a profile file (`voltana.predictors.profile`).

        Args:
            path: The file.
            expect: The stack that is running; None takes the file on trust.
            mismatch: What to do with a profile of another stack: refuse it, or start from it with
                wide uncertainty.
            forgetting: See the class.
            bound_deviations: See the class.

        Raises:
            ProfileError: If the file is no profile, or is one of another stack and not welcome.
        """
        from voltana.predictors.profile import (  # noqa: PLC0415  (pydantic, for files alone)
            check_stack,
            load_profile,
            phase_prior,
        )

        profile = load_profile(path)
        doubted = expect is not None and profile.stack != expect
        if expect is not None and mismatch == "refuse":
            check_stack(profile, expect, path)
        prefill, decode = (
            None if phase is None else phase_prior(phase, names, doubted=doubted)
            for phase, names in ((profile.prefill, PREFILL_NAMES), (profile.decode, DECODE_NAMES))
        )
        made = cls(
            max_clock_mhz=profile.max_clock_mhz,
            prefill=prefill,
            decode=decode,
            forgetting=forgetting,
            bound_deviations=bound_deviations,
        )
        if not doubted:
            for learner, phase in (
                (made._prefill, profile.prefill),
                (made._decode, profile.decode),
            ):
                if phase is not None:
                    learner.trust_clocks(phase.slowest_mhz, phase.fastest_mhz)
        return made

    def to_profile(self, stack: Stack) -> PredictorProfile:
        """What was learned so far, as a profile to be saved.

        Args:
            stack: What it was learned on.
        """
        from voltana.predictors.profile import (  # noqa: PLC0415  (pydantic, for files alone)
            PredictorProfile,
        )

        return PredictorProfile(
            stack=stack,
            max_clock_mhz=self.max_clock_mhz,
            prefill=self._prefill.to_profile(PREFILL_NAMES),
            decode=self._decode.to_profile(DECODE_NAMES),
        )

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return forecast(load, clocks_mhz, self._bases, self._prefill, self._decode)

    def learn(self, outcome: Outcome) -> None:
        """Learn from one iteration, at the clock that was achieved; broken labels are dropped."""
        load, clock_mhz, latency_s = outcome.load, outcome.clock_mhz, outcome.latency_s
        if not (0.0 < latency_s < math.inf and 0.0 < clock_mhz < math.inf):
            return
        if load.prefill_tokens:
            if load.decode_requests:
                self._learn_mixed(load, clock_mhz, latency_s)
                return
            features = prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
            self._prefill.learn(features, clock_mhz, latency_s)
        elif load.decode_requests:
            features = decode_features(load.decode_requests, load.decode_kv_tokens)
            self._decode.learn(features, clock_mhz, latency_s)

    def snapshot(self) -> LatencySnapshot:
        """A frozen copy; later learning does not change it."""
        return LatencySnapshot(
            prefill=self._prefill.frozen(),
            decode=self._decode.frozen(),
            bases=self._bases,
        )

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """Expected latency at one clock: what `forecast` yields there, for less; 0 when idle."""
        if load.prefill_tokens:
            if load.decode_requests:
                rows, cache = mixed_parts(load)
                cache_s = self._decode.expected_s(cache, clock_mhz)
                return self._prefill.expected_s(rows, clock_mhz) + cache_s
            features = prefill_features(load.prefill_tokens, load.prefill_attended_pairs)
            return self._prefill.expected_s(features, clock_mhz)
        if not load.decode_requests:
            return 0.0
        features = decode_features(load.decode_requests, load.decode_kv_tokens)
        return self._decode.expected_s(features, clock_mhz)

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:
        """Doubt what was learned, as after a change of the engine or the device.

        Args:
            factor: How much the covariance grows, up to the prior's.
            relative_error: The least that the residual scale becomes.
        """
        self._prefill.reopen(factor, relative_error)
        self._decode.reopen(factor, relative_error)

    def __repr__(self) -> str:
        return (
            f"EcoPred(max_clock_mhz={self.max_clock_mhz:g}, "
            f"prefill_labels={self._prefill.scale.labels}, "
            f"decode_labels={self._decode.scale.labels})"
        )

    def _learn_mixed(self, load: Load, clock_mhz: float, latency_s: float) -> None:
        """Teach the prefill model what is left once the decode requests' KV cache has been read."""
        rows, cache = mixed_parts(load)
        cache_s = self._decode.expected_s(cache, clock_mhz)
        if latency_s > cache_s:
            self._prefill.learn(rows, clock_mhz, latency_s - cache_s)
