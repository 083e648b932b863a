"""Predictors that break one promise each."""

from __future__ import annotations

import math
import random
import time

import numpy as np

from tests.broken.shared import SHARED_COUNT, altered
from tests.honest import (
    TABLE_MHZ,
    HonestPredictor,
    HonestSnapshot,
)
from voltana.values import Phase


class NoSnapshotMethod:
    def forecast(self, load, clocks_mhz):
        return HonestPredictor().forecast(load, clocks_mhz)

    def learn(self, outcome):
        pass


class OneNumber(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=made.mean_s[:1], upper_s=made.upper_s[:1])


class NanWhenUnknown(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=np.where(np.isinf(made.mean_s), np.nan, made.mean_s))


class Negative(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=np.where(np.isinf(made.mean_s), np.inf, made.mean_s - 1.0))


class UpperBelowMean(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=0.9 * made.mean_s)


class ZeroWhenUnknown(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        zeros = np.where(np.isinf(made.mean_s), 0.0, made.mean_s)
        return altered(made, mean_s=zeros, upper_s=1.1 * zeros)


class WritesClocks(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        kept = clocks_mhz.copy()
        clocks_mhz /= 1e3
        return super().forecast(load, kept)


class CountsForecasts(HonestPredictor):
    """Forecasting makes it learn less."""

    def forecast(self, load, clocks_mhz):
        self.moment = self.moment * 0.999
        return super().forecast(load, clocks_mhz)


class RandomForecasts(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.random = random.Random(0)

    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=made.upper_s * (1 + self.random.random()))


class ReusesBuffers(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.buffers = {}

    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        buffer = self.buffers.setdefault(len(clocks_mhz), np.empty(len(clocks_mhz)))
        buffer[:] = made.upper_s
        return altered(made, upper_s=buffer)


class NormalisesByTheCall(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=made.mean_s * (1 + clocks_mhz / clocks_mhz.max()))


class Gullible(HonestPredictor):
    """Outliers overflow it."""

    def learn(self, outcome):
        if outcome.latency_s > 100:
            self.weights = np.full(10, np.nan)
        else:
            super().learn(outcome)


class TrustsSensors(HonestPredictor):
    def learn(self, outcome):
        if not math.isfinite(outcome.latency_s):
            self.weights = np.full(10, outcome.latency_s)
        super().learn(outcome)


class NeedsAForecast(HonestPredictor):
    def learn(self, outcome):
        if outcome.decision.forecast.upper_s.min() > outcome.latency_s:
            self.seen += 0
        super().learn(outcome)


class WritesTheOutcome(HonestPredictor):
    def learn(self, outcome):
        if outcome.decision is not None and outcome.decision.forecast is not None:
            outcome.decision.forecast.mean_s[:] -= outcome.latency_s
        super().learn(outcome)


class StaleSnapshot(HonestPredictor):
    def snapshot(self):
        weights = self.weights
        return HonestSnapshot(weights if weights is None else 1.01 * weights, self.seen)


class LiveSnapshot(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        frozen.forecast = self.forecast
        return frozen


class SnapshotWithInfinity(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        plain = dict(frozen.to_dict(), bound=math.inf)
        frozen.to_dict = lambda: plain
        return frozen


class SnapshotWithArrays(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        plain = {"weights": frozen.weights}
        frozen.to_dict = lambda: plain
        return frozen


class KeepsEveryLabel(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.labels = []

    def learn(self, outcome):
        self.labels.append(outcome.latency_s)
        super().learn(outcome)


class HoldsALambda(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.scale = lambda: 1.0


class SharesState(HonestPredictor):
    """Its copies learn into one matrix."""

    def __deepcopy__(self, memo):
        other = SharesState()
        other.__dict__.update(self.__dict__)
        return other


class SeedsItselfByCount(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.gram = np.eye(10) * 1e-3 * next(SHARED_COUNT)
        self.gram += np.eye(10) * 1e-6


class SlowPredictor(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        if len(clocks_mhz) == len(TABLE_MHZ):
            time.sleep(0.006)
        return super().forecast(load, clocks_mhz)


class LearnsNothing(HonestPredictor):
    def learn(self, outcome):
        pass


class RaisesOnIdle(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        if load.phase is Phase.IDLE:
            raise KeyError(load.phase)
        return super().forecast(load, clocks_mhz)


BROKEN = [
    ("has_the_methods_of_the_port", NoSnapshotMethod),
    ("forecasts_every_clock_asked_for", OneNumber),
    ("forecasts_every_clock_asked_for", RaisesOnIdle),
    ("forecasts_no_nan", NanWhenUnknown),
    ("forecasts_no_negative_latency", Negative),
    ("upper_covers_the_mean", UpperBelowMean),
    ("work_takes_time", ZeroWhenUnknown),
    ("forecast_keeps_its_inputs", WritesClocks),
    ("forecast_changes_nothing", CountsForecasts),
    ("forecasts_the_same_twice", RandomForecasts),
    ("issued_forecasts_stay_as_issued", ReusesBuffers),
    ("one_clock_agrees_with_many", NormalisesByTheCall),
    ("learn_survives_outliers", Gullible),
    ("learn_survives_broken_labels", TrustsSensors),
    ("learn_accepts_outcomes_without_a_forecast", NeedsAForecast),
    ("learn_keeps_the_outcome", WritesTheOutcome),
    ("snapshot_agrees_with_its_predictor", StaleSnapshot),
    ("snapshot_is_frozen", LiveSnapshot),
    ("snapshot_is_json", SnapshotWithInfinity),
    ("snapshot_is_json", SnapshotWithArrays),
    ("memory_is_bounded", KeepsEveryLabel),
    ("copies_go_on_alike", HoldsALambda),
    ("copies_go_on_alike", SharesState),
    ("is_deterministic", SeedsItselfByCount),
    ("answers_in_time", SlowPredictor),
    ("learns_a_linear_plant", LearnsNothing),
]
"""Pairs of the check that has to notice and what breaks its promise."""
