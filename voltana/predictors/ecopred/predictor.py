"""EcoPred: latency of prefill and decode iterations at any clock, learned online.

After VoltanaLLM's EcoPred (arXiv 2509.04827), which fits one table per profiled clock: here one
clock-aware linear model per phase shares what is learned among all clocks, and recursive least
squares keep it current.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from river import base

from voltana.errors import invalid, unknown_name
from voltana.predictors.ecopred.features import DECODE_NAMES, PREFILL_NAMES
from voltana.predictors.ecopred.linear import LinearLatency
from voltana.predictors.ecopred.prior import decode_prior, prefill_prior
from voltana.predictors.ecopred.transformer import FIELDS
from voltana.predictors.river_adapter import RiverPredictor
from voltana.values import Load, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from river.base.typing import FeatureName, RegTarget

    from voltana.ports import PredictorSnapshot
    from voltana.predictors.conformal.snapshot import Known
    from voltana.predictors.ecopred.prior import Prior
    from voltana.predictors.profile import PredictorProfile, Stack
    from voltana.predictors.river_adapter import RiverRegressor
    from voltana.values import FloatArray, Forecast, Table


FORGETTING = 0.98
"""Share of the information along a regressor that is kept at each sample.

Forgetting is directional and there are about ten directions, so this remembers some 500 labels. A
slower one is hardly more accurate (on the plant 0.998 gains 0.03 ms), but takes thousands of labels
to follow a machine that changed.
"""


class EcoPred(base.Regressor):
    """Online latency model; a `voltana.ports.Predictor` and a `river.base.Regressor`.

    Without arguments it knows nothing and gives infinite upper bounds until it has learned. Use
    `from_datasheet` or `from_profile` to start warm. As a regressor it takes the fields of
    `voltana.values.Load` and ``clock_mhz`` by name, and seconds.

    Args:
        max_clock_mhz: The device's fastest clock, at which f_max / f is 1.
        prefill: Prior of prefill; None for none.
        decode: Prior of decode; None for none.
        forgetting: Share of the information along a regressor that is kept at each sample.
        bound_deviations: Width of the upper bound, in standard deviations of the residuals.
        regressor: Any river regressor or pipeline to learn with instead of
            `DirectionalLeastSquares`; see `voltana.predictors.RiverPredictor` for what it is told.
            It brings its own prior and its own way to forget, and is slower.

    Raises:
        ConfigError: If an argument is outside its range.

    Examples:
        >>> from river import evaluate, metrics
        >>> from voltana.predictors import EcoPred
        >>> iterations = [
        ...     ({"decode_requests": n, "decode_kv_tokens": 500 * n, "clock_mhz": 1410.0}, 0.02)
        ...     for n in range(1, 200)
        ... ]
        >>> score = evaluate.progressive_val_score(iterations, EcoPred(), metrics.MAE())
        >>> score.get() < 0.001
        True
    """

    def __init__(
        self,
        *,
        max_clock_mhz: float = 1410.0,
        prefill: Prior | None = None,
        decode: Prior | None = None,
        forgetting: float = FORGETTING,
        bound_deviations: float = 2.5,
        regressor: RiverRegressor | None = None,
    ) -> None:
        if not 0 < max_clock_mhz < math.inf:
            raise invalid("max_clock_mhz", max_clock_mhz, "above 0", "Ask the device for it.")
        if not bound_deviations >= 0:
            raise invalid("bound_deviations", bound_deviations, "0 or more", "2.5 is usual.")
        self.max_clock_mhz = max_clock_mhz
        self.prefill = prefill
        self.decode = decode
        self.forgetting = forgetting
        self.bound_deviations = bound_deviations
        self.regressor = regressor
        self._learner = self._make_learner()

    def _make_learner(self) -> LinearLatency | RiverPredictor:
        if self.regressor is None:
            return LinearLatency(
                self.prefill,
                self.decode,
                max_clock_mhz=self.max_clock_mhz,
                forgetting=self.forgetting,
                bound_deviations=self.bound_deviations,
            )
        if self.prefill is not None or self.decode is not None:
            remedy = "Leave the prior out: a regressor brings its own."
            raise invalid("regressor", self.regressor, "None where a prior is given", remedy)
        return RiverPredictor(
            self.regressor,
            max_clock_mhz=self.max_clock_mhz,
            bound_deviations=self.bound_deviations,
        )

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
        return cls(
            max_clock_mhz=profile.max_clock_mhz,
            prefill=prefill,
            decode=decode,
            forgetting=forgetting,
            bound_deviations=bound_deviations,
        )

    def to_profile(self, stack: Stack) -> PredictorProfile:
        """What was learned so far, as a profile to be saved.

        A profile holds the coefficients of the default regressor; what another one has learned is
        not in it.

        Args:
            stack: What it was learned on.
        """
        from voltana.predictors.profile import (  # noqa: PLC0415  (pydantic, for files alone)
            PredictorProfile,
        )

        learner = self._learner
        phases = learner.to_profiles() if isinstance(learner, LinearLatency) else (None, None)
        return PredictorProfile(
            stack=stack, max_clock_mhz=self.max_clock_mhz, prefill=phases[0], decode=phases[1]
        )

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return self._learner.forecast(load, clocks_mhz)

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsMean.forecast_mean`."""
        return self._learner.forecast_mean(load, clocks_mhz)

    def batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsBatchMeans`."""
        return self._learner.batch_means(requests, kv_tokens, clocks_mhz)

    def learn(self, outcome: Outcome) -> None:
        """Learn from one iteration, at the clock that was achieved; broken labels are dropped."""
        self._learner.learn(outcome)

    def learn_one(self, x: Mapping[FeatureName, float], y: RegTarget) -> None:
        """Learn that the iteration `x` took `y` seconds; broken labels are dropped.

        Args:
            x: Fields of `voltana.values.Load` and ``clock_mhz``; absent ones are 0.
            y: Measured latency in seconds.

        Raises:
            UnknownNameError: If `x` has other keys.
            ConfigError: If `y`, or what stands under a key, is no number.
        """
        load, clock_mhz = _iteration(x)
        latency_s = _number("y", y)
        if _is_possible(load):
            self.learn(Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=0.0))

    def predict_one(self, x: Mapping[FeatureName, float]) -> float:
        """Expected latency of the iteration `x` in seconds: 0 without work, inf where unknown.

        That is so without a clock, and where a field is nan, infinite or negative, as behind a
        scaler: EcoPred takes the fields as they are, and scales for itself.

        Args:
            x: Fields of `voltana.values.Load` and ``clock_mhz``; absent ones are 0.

        Raises:
            UnknownNameError: If `x` has other keys.
            ConfigError: If what stands under a key is no number.
        """
        load, clock_mhz = _iteration(x)
        if not (load.prefill_tokens or load.decode_requests):
            return 0.0
        known = _is_possible(load) and 0.0 < clock_mhz < math.inf
        return self.expected_s(load, clock_mhz) if known else math.inf

    def snapshot(self) -> PredictorSnapshot:
        """A frozen copy; later learning does not change it."""
        return self._learner.snapshot()

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """Expected latency at one clock: what `forecast` yields there, for less; 0 when idle."""
        return self._learner.expected_s(load, clock_mhz)

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:
        """Doubt what was learned, as after a change of the engine or the device.

        Args:
            factor: How much the covariance grows, up to the prior's.
            relative_error: The least that the residual scale becomes.
        """
        self._learner.reopen(factor, relative_error)

    @property
    def labels(self) -> tuple[int, int]:
        """Labels that it has learned of prefill and of decode."""
        return self._learner.labels

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name):g}"
            for name in ("max_clock_mhz", "forgetting", "bound_deviations")
        ]
        for name in ("prefill", "decode", "regressor"):
            value = getattr(self, name)
            if value is not None:
                shown.append(f"{name}={value}")
        return f"EcoPred({', '.join(shown)})"


def _iteration(x: Mapping[FeatureName, float]) -> tuple[Load, float]:
    """The load and the clock that a dictionary of features tells of."""
    told: dict[str, float] = {}
    for name, value in x.items():
        if name not in FIELDS:
            raise unknown_name("feature", str(name), list(FIELDS))
        told[str(name)] = _number(str(name), value)
    clock_mhz = told.pop("clock_mhz", 0.0)
    return Load(**told), clock_mhz  # type: ignore[arg-type]  # a fraction of a token does no harm


def _number(name: str, value: object) -> float:
    """A number of any type, numpy's too; text is none."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    raise invalid(name, repr(value)[:80], "a number", "Give one, or leave the key out for 0.")


def _is_possible(load: Load) -> bool:
    """Whether an engine could have had such an iteration: nan and infinities are none."""
    parts = (load.prefill_tokens, load.prefill_attended_pairs)
    return all(
        0.0 <= part < math.inf for part in (*parts, load.decode_requests, load.decode_kv_tokens)
    )
