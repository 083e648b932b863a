"""Doubts a predictor when its residuals say that the machine has changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from voltana.errors import invalid
from voltana.ports import Predictor, Reopens, TellsExpected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.ports import PredictorSnapshot
    from voltana.values import FloatArray, Forecast, Load, Outcome


class Reopenable(Predictor, Reopens, TellsExpected, Protocol):
    """A predictor whose knowledge can be doubted, such as `voltana.predictors.ecopred.EcoPred`."""


class DriftAware:
    """Watches the residuals of a predictor and reopens it on drift (a changed driver, model, GPU).

    The relative residuals of the forecasts go, one by one, into ADWIN (Bifet and Gavalda, "Learning
    from time-changing data with adaptive windowing", SDM 2007), once for each phase. On drift the
    predictor's bound widens to the size of the recent residuals, and its covariance grows back
    towards the prior's, so that it learns as fast as at the start.

    Args:
        predictor: What is watched and taught.
        delta: ADWIN's confidence; a false alarm about once in 1/delta checks.
        factor: How much the covariance grows on drift.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self, predictor: Reopenable, *, delta: float = 0.002, factor: float = 1000.0
    ) -> None:
        from river.drift import ADWIN  # noqa: PLC0415  (imports in 0.6 s what only this needs)

        if not 0 < delta < 1:
            raise invalid("delta", delta, "in (0, 1)", "0.002 is river's own choice.")
        if not factor >= 1:
            raise invalid("factor", factor, "at least 1", "A larger factor forgets more.")
        self.predictor = predictor
        self.drifts = 0
        self._factor = factor
        self._delta = delta
        self._detectors: dict[str, Any] = {
            name: ADWIN(delta=delta, clock=8)  # type: ignore[no-untyped-call]
            for name in ("prefill", "decode")
        }

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        return self.predictor.forecast(load, clocks_mhz)

    def learn(self, outcome: Outcome) -> None:
        """Score the forecast for this outcome, doubt the predictor if needed, then teach it."""
        residual = self._residual(outcome)
        if residual is not None:
            detector = self._detectors["prefill" if outcome.load.prefill_tokens else "decode"]
            detector.update(residual)
            if detector.drift_detected:
                self.drifts += 1
                recent = abs(float(detector.estimation))
                self.predictor.reopen(self._factor, min(max(recent, abs(residual)), 1.0))
        self.predictor.learn(outcome)

    def snapshot(self) -> PredictorSnapshot:
        """See `voltana.ports.Predictor.snapshot`."""
        return self.predictor.snapshot()

    def to_dict(self) -> Mapping[str, object]:
        """The predictor's snapshot as plain JSON values."""
        return self.snapshot().to_dict()

    def __repr__(self) -> str:
        return f"DriftAware({self.predictor!r}, delta={self._delta})"

    def _residual(self, outcome: Outcome) -> float | None:
        """(label - mean) / mean, clipped to 1 in size; None where there is nothing to compare."""
        if not (0.0 < outcome.latency_s < math.inf and 0.0 < outcome.clock_mhz < math.inf):
            return None
        # The predictor has learned nothing since it issued its forecast, so this is still it, but
        # at the clock that was achieved.
        mean_s = self.predictor.expected_s(outcome.load, outcome.clock_mhz)
        if not 0.0 < mean_s < math.inf:
            return None
        return min(max(outcome.latency_s / mean_s - 1.0, -1.0), 1.0)
