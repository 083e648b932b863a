"""Any river regressor or pipeline as a latency predictor."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voltana.errors import ConfigError, invalid
from voltana.predictors.ecopred.residual_scale import ResidualScale
from voltana.values import Forecast, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray, Load, Outcome


class RiverRegressor(Protocol):
    """What is used of river's `base.Regressor`; a pipeline that ends in one has it too."""

    def learn_one(self, x: dict[str, float], y: float) -> None:
        """Learn the label `y` of the features `x`."""
        ...

    def predict_one(self, x: dict[str, float]) -> float:
        """Expected label of the features `x`."""
        ...


def dict_features(load: Load, clock_mhz: float, max_clock_mhz: float) -> dict[str, float]:
    """What a regressor is told of an iteration, each number near 1 in size.

    The keys are the four parts of a load in thousands (attended pairs in millions), each also times
    ``slow = f_max / f`` under the key ``slow_...``, and ``one`` with ``slow``.
    """
    slow = max_clock_mhz / clock_mhz
    parts = {
        "one": 1.0,
        "prefill_kilotokens": load.prefill_tokens / 1e3,
        "prefill_megapairs": load.prefill_attended_pairs / 1e6,
        "decode_kilorequests": load.decode_requests / 1e3,
        "decode_megatokens": load.decode_kv_tokens / 1e6,
    }
    return parts | {f"slow_{name}": slow * value for name, value in parts.items()}


class RiverPredictor:
    """Wraps a river regressor; satisfies `voltana.ports.Predictor`.

    The regressor is asked once for each clock, so a forecast over 81 clocks takes 81 predictions:
    use `voltana.predictors.ecopred.EcoPred` where time matters. Latencies are learned in
    milliseconds, in which river's default priors and learning rates are of a fitting size.

    Args:
        regressor: Learns prefill and decode iterations alike; each phase has its own copy.
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
        if not (hasattr(regressor, "learn_one") and hasattr(regressor, "predict_one")):
            raise ConfigError(
                f"regressor = {type(regressor).__name__} is not allowed: must have learn_one() and "
                "predict_one(). Give a river regressor, or a pipeline that ends in one."
            )
        if not 0 < max_clock_mhz < math.inf:
            raise invalid("max_clock_mhz", max_clock_mhz, "above 0", "Ask the device for it.")
        self.max_clock_mhz = max_clock_mhz
        self.bound_deviations = bound_deviations
        self._phases = {
            phase: (copy.deepcopy(regressor), ResidualScale(None))
            for phase in (Phase.PREFILL, Phase.DECODE, Phase.MIXED)
        }

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        phase = load.phase
        if phase is Phase.IDLE:
            idle = np.zeros(len(clocks_mhz))
            return Forecast(clocks_mhz=clocks_mhz, mean_s=idle, upper_s=idle.copy())
        regressor, scale = self._phases[phase]
        mean_s = np.array(
            [
                _predicted_s(regressor, dict_features(load, float(mhz), self.max_clock_mhz))
                for mhz in clocks_mhz
            ]
        )
        if not math.isfinite(scale.value):
            return Forecast(
                clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=np.full_like(mean_s, math.inf)
            )
        upper_s = mean_s * (1.0 + self.bound_deviations * scale.value)
        # A regressor without sign constraints may promise 0 s: that is no bound.
        upper_s[mean_s <= 0.0] = math.inf
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=upper_s)

    def learn(self, outcome: Outcome) -> None:
        """Learn from one iteration, at the clock that was achieved; broken labels are dropped."""
        latency_s, clock_mhz, phase = outcome.latency_s, outcome.clock_mhz, outcome.load.phase
        valid = 0.0 < latency_s < math.inf and 0.0 < clock_mhz < math.inf
        if not valid or phase is Phase.IDLE:
            return
        regressor, scale = self._phases[phase]
        x = dict_features(outcome.load, clock_mhz, self.max_clock_mhz)
        expected_s = _predicted_s(regressor, x)
        if math.isfinite(expected_s):
            scale.update(abs(latency_s - expected_s) / max(expected_s, 1e-9))
        regressor.learn_one(x, 1e3 * latency_s)

    def snapshot(self) -> RiverSnapshot:
        """A frozen deep copy."""
        return RiverSnapshot(_predictor=copy.deepcopy(self))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiverSnapshot:
    """A frozen `RiverPredictor`."""

    _predictor: RiverPredictor

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return self._predictor.forecast(load, clocks_mhz)

    def to_dict(self) -> Mapping[str, object]:
        """Name and options of the regressor: river has no plain form of what it learned."""
        predictor = self._predictor
        return {
            "regressor": repr(predictor._phases[Phase.DECODE][0]),
            "max_clock_mhz": predictor.max_clock_mhz,
            "bound_deviations": predictor.bound_deviations,
        }


def _predicted_s(regressor: RiverRegressor, x: dict[str, float]) -> float:
    """Prediction in seconds, not negative; inf where the regressor diverged."""
    predicted_ms = float(regressor.predict_one(x))
    return max(predicted_ms * 1e-3, 0.0) if math.isfinite(predicted_ms) else math.inf
