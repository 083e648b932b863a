"""Any river regressor or pipeline as a latency predictor."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from river import base

from voltana.errors import ConfigError, invalid
from voltana.ports import Predictor
from voltana.predictors.ecopred.clock_range import ClockRange
from voltana.predictors.ecopred.residual_scale import ResidualScale
from voltana.predictors.ecopred.transformer import LatencyFeatures
from voltana.values import Forecast, Phase
from voltana.viability import forecast_batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from river.base.typing import FeatureName

    from voltana.predictors.conformal.snapshot import Known
    from voltana.values import FloatArray, Load, Outcome, Table


class RiverRegressor(Protocol):
    """What is used of river's `base.Regressor`; a pipeline that ends in one has it too."""

    def learn_one(self, x: dict[FeatureName, float], y: float) -> None:
        """Learn the label `y` of the features `x`."""
        ...

    def predict_one(self, x: dict[FeatureName, float]) -> float:
        """Expected label of the features `x`."""
        ...


_FAILS = (ArithmeticError, ValueError, np.linalg.LinAlgError)
"""What arithmetic that fails raises; a square root or logarithm of less than 0 a ValueError."""


@dataclass(slots=True, eq=False)
class _Phase:
    """What one phase has learned: a regressor, the scale of its residuals, the clocks tried."""

    regressor: RiverRegressor
    scale: ResidualScale
    clocks: ClockRange
    predicts: bool = False
    """Whether it has predicted anything yet."""

    def predicted_s(self, features: dict[FeatureName, float]) -> float:
        """Prediction in seconds, not negative; inf where it diverged, fails or has none yet."""
        try:
            predicted = self.regressor.predict_one(features)
        except _FAILS:
            return math.inf
        predicted_ms = math.inf if predicted is None else float(predicted)
        return max(predicted_ms * 1e-3, 0.0) if math.isfinite(predicted_ms) else math.inf

    def forget(self, untaught: RiverRegressor) -> None:
        """Start anew; what was tried with another regressor says nothing of this one."""
        self.regressor = copy.deepcopy(untaught)
        self.scale = ResidualScale(None)
        self.clocks.restart()
        self.predicts = False


class RiverPredictor:
    """Wraps a river regressor; satisfies `voltana.ports.Predictor`.

    The regressor is told `LatencyFeatures` (scaled), and learns latencies in milliseconds: sizes
    that fit river's default priors and learning rates. It is asked once for each clock, so a
    forecast over 81 clocks takes 81 predictions: `EcoPred`'s own regressor answers all at once.
    Its bound is believed at the clocks that were tried; beyond them physics bounds latency, as for
    EcoPred.

    Args:
        regressor: Each phase (prefill, decode, mixed) learns with its own copy.
        max_clock_mhz: The device's fastest clock.
        bound_deviations: Width of the upper bound, in mean absolute residuals.

    Raises:
        ConfigError: If `regressor` is none.
    """

    def __init__(
        self,
        regressor: RiverRegressor,
        *,
        max_clock_mhz: float = 1410.0,
        bound_deviations: float = 3.0,
    ) -> None:
        _check_regressor(regressor)
        if not bound_deviations >= 0:
            raise invalid("bound_deviations", bound_deviations, "0 or more", "3 is usual.")
        self.features = LatencyFeatures(max_clock_mhz, scaled=True)
        self.bound_deviations = bound_deviations
        self._untaught = copy.deepcopy(regressor)
        self._phases = {
            phase: _Phase(copy.deepcopy(regressor), ResidualScale(None), ClockRange(max_clock_mhz))
            for phase in (Phase.PREFILL, Phase.DECODE, Phase.MIXED)
        }

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        if load.phase is Phase.IDLE:
            idle = np.zeros(len(clocks_mhz))
            return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle.copy())
        phase = self._phases[load.phase]
        tried_mhz = np.clip(clocks_mhz, phase.clocks.slowest_mhz, phase.clocks.fastest_mhz)
        asked = sorted({*clocks_mhz.tolist(), *tried_mhz.tolist()})
        at_s = {mhz: self._predicted_s(phase, load, mhz) for mhz in asked}
        mean_s = np.array([at_s[mhz] for mhz in clocks_mhz.tolist()])
        upper_s = np.array([at_s[mhz] for mhz in tried_mhz.tolist()])
        upper_s *= np.maximum(phase.clocks.slowest_mhz / clocks_mhz, 1.0)
        known = mean_s > 0.0
        if phase.scale.value < math.inf:
            upper_s *= 1.0 + self.bound_deviations * phase.scale.value
            np.maximum(upper_s, mean_s, out=upper_s)
        else:
            known[:] = False
        # A regressor without sign constraints may promise 0 s: that is no bound.
        upper_s[~known] = math.inf
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s)

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsMean.forecast_mean`."""
        if load.phase is Phase.IDLE:
            return np.zeros(len(clocks_mhz)), True
        phase = self._phases[load.phase]
        mean_s = np.array([self._predicted_s(phase, load, mhz) for mhz in clocks_mhz.tolist()])
        return mean_s, (mean_s > 0.0) & (phase.scale.value < math.inf)

    def batch_means(
        self, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
    ) -> tuple[Table, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsBatchMeans`; asks for each batch."""
        mean_s, upper_s = forecast_batches(self, requests, kv_tokens, clocks_mhz)
        return mean_s, upper_s < math.inf

    def learn(self, outcome: Outcome) -> None:
        """Learn from one iteration, at the clock that was achieved; broken labels are dropped.

        A regressor whose arithmetic fails, or that predicts no numbers any more, forgets what it
        knew of the phase.
        """
        load, clock_mhz, latency_s = outcome.load, outcome.clock_mhz, outcome.latency_s
        valid = 0.0 < latency_s < math.inf and 0.0 < clock_mhz < math.inf
        if not valid or load.phase is Phase.IDLE:
            return
        phase, features = self._phases[load.phase], self.features.of_load(load, clock_mhz)
        expected_s = phase.predicted_s(features)
        if expected_s < math.inf:
            phase.predicts = True
        elif phase.predicts:  # its weights are no numbers any more, and would never be again
            phase.forget(self._untaught)
            expected_s = phase.predicted_s(features)
        phase.scale.update(
            abs(latency_s - expected_s) / max(expected_s, 1e-9)
            if expected_s < math.inf
            else math.inf
        )
        phase.clocks.update(clock_mhz)
        try:
            phase.regressor.learn_one(features, 1e3 * latency_s)
        except _FAILS:
            # As of a covariance that became singular, by rounding that differs from chip to chip.
            # It may have taken half of the label, and would raise from now on: it starts anew.
            phase.forget(self._untaught)

    def snapshot(self) -> RiverSnapshot:
        """A frozen deep copy."""
        return RiverSnapshot(_predictor=copy.deepcopy(self))

    def expected_s(self, load: Load, clock_mhz: float) -> float:
        """Expected latency at one clock; 0 when idle."""
        if load.phase is Phase.IDLE:
            return 0.0
        return self._predicted_s(self._phases[load.phase], load, clock_mhz)

    def reopen(self, factor: float = 100.0, relative_error: float = 0.3) -> None:  # noqa: ARG002  (a regressor forgets in its own way)
        """Doubt what was learned: the bound widens, and clocks have to be tried again.

        Args:
            factor: Ignored: a river regressor cannot be told to forget.
            relative_error: The least that the residual scale becomes.
        """
        for phase in self._phases.values():
            phase.scale.widen(relative_error)
            phase.clocks.restart()

    @property
    def labels(self) -> tuple[int, int]:
        """Labels that prefill (mixed batches included) and decode have learned."""
        count = {name: phase.scale.labels for name, phase in self._phases.items()}
        return count[Phase.PREFILL] + count[Phase.MIXED], count[Phase.DECODE]

    def _predicted_s(self, phase: _Phase, load: Load, clock_mhz: float) -> float:
        return phase.predicted_s(self.features.of_load(load, clock_mhz))


def _check_regressor(regressor: object) -> None:
    """Refuse what learns no latencies from features, while the name of the mistake is at hand.

    Raises:
        ConfigError: If it does not.
    """
    usual = "Give a river regressor, or a pipeline that ends in one."
    if isinstance(regressor, type):
        shown, allowed = regressor.__name__, "be an instance"
        remedy = f"Call it: {regressor.__name__}()."
    elif isinstance(_last_step(regressor), Predictor):
        shown, allowed = type(regressor).__name__, "be a regressor of features"
        remedy = f"It is a latency model of its own: use it as it is. {usual}"
    elif not (hasattr(regressor, "learn_one") and hasattr(regressor, "predict_one")):
        shown, allowed = type(regressor).__name__, "have learn_one() and predict_one()"
        remedy = usual
    elif isinstance(_last_step(regressor), base.Classifier | base.Clusterer):
        shown, allowed, remedy = type(regressor).__name__, "be a regressor", usual
    else:
        return
    raise ConfigError(f"regressor = {shown} is not allowed: must {allowed}. {remedy}")


def _last_step(model: object) -> object:
    from river.compose import Pipeline  # noqa: PLC0415  (whoever gives a regressor has loaded it)

    return next(reversed(model.steps.values())) if isinstance(model, Pipeline) else model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiverSnapshot:
    """A frozen `RiverPredictor`."""

    _predictor: RiverPredictor

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return self._predictor.forecast(load, clocks_mhz)

    def forecast_mean(self, load: Load, clocks_mhz: FloatArray) -> tuple[FloatArray, Known]:
        """See `voltana.predictors.conformal.snapshot.TellsMean.forecast_mean`."""
        return self._predictor.forecast_mean(load, clocks_mhz)

    def to_dict(self) -> Mapping[str, object]:
        """Name and options of the regressor: river has no plain form of what it learned."""
        predictor = self._predictor
        return {
            "regressor": repr(predictor._phases[Phase.DECODE].regressor),
            "max_clock_mhz": predictor.features.max_clock_mhz,
            "bound_deviations": predictor.bound_deviations,
        }
