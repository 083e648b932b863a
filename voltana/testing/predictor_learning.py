"""Checks of how a predictor learns, and of its snapshots and copies."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import TYPE_CHECKING

import numpy as np

from voltana.testing import samples
from voltana.testing.predictor_subject import (
    PredictorSubject,
    expect_same,
    fresh_and_trained,
    issued_with,
    taught,
    trained,
)
from voltana.testing.report import NotApplicable, expect

if TYPE_CHECKING:
    from voltana.ports import Predictor


def learn_survives_outliers(subject: PredictorSubject) -> None:
    """After every extreme but legal label, forecasts are neither nan nor negative."""
    for predictor in fresh_and_trained(subject):
        for outcome in samples.hostile_outcomes():
            taught(predictor, [outcome])
            remedy = "Clip innovations and bound the covariance."
            _expect_sane(predictor, f"after {outcome.latency_s:g} s as a label", remedy)


def learn_survives_broken_labels(subject: PredictorSubject) -> None:
    """Labels of failed sensors (nan, infinite, zero, negative) are dropped without an exception."""
    predictor = taught(trained(subject), samples.broken_outcomes())
    remedy = "Return from learn() unless latency and clock are finite and above 0."
    _expect_sane(predictor, "after broken labels", remedy)


def learn_accepts_outcomes_without_a_forecast(subject: PredictorSubject) -> None:
    """An outcome may carry no decision, or one without a forecast."""
    predictor = subject.make()
    decision = samples.issued(predictor.forecast(samples.IDLE, samples.clocks(2)))
    bare = dataclasses.replace(decision, forecast=None)
    for outcome in samples.outcomes(20):
        predictor.learn(dataclasses.replace(outcome, decision=None))
        predictor.learn(dataclasses.replace(outcome, decision=bare))
    _expect_sane(predictor, "after outcomes without a forecast", "Learn from the label alone.")


def learn_keeps_the_outcome(subject: PredictorSubject) -> None:
    """learn() changes the predictor alone, not the forecast that comes with the outcome."""
    predictor = trained(subject)
    outcome = issued_with(predictor, next(samples.outcomes(1, seed=3)))
    before = copy.deepcopy(outcome)
    predictor.learn(outcome)
    seen = "the outcome differs after learn()"
    expect(repr(outcome) == repr(before), seen, "Copy before you change an array.")


def snapshot_agrees_with_its_predictor(subject: PredictorSubject) -> None:
    """A snapshot forecasts what its predictor forecasts at that moment."""
    for predictor in fresh_and_trained(subject):
        frozen = predictor.snapshot()
        seen = "snapshot and predictor forecast differently"
        expect_same(predictor, frozen, seen, "Copy every coefficient and the bound's state.", 1e-9)


def snapshot_is_frozen(subject: PredictorSubject) -> None:
    """Learning after snapshot() does not change the snapshot."""
    predictor = trained(subject)
    frozen = predictor.snapshot()
    before = [frozen.forecast(load, samples.clocks(9)) for load in samples.LOADS.values()]
    taught(predictor, samples.hostile_outcomes())
    after = [frozen.forecast(load, samples.clocks(9)) for load in samples.LOADS.values()]
    holds = all(samples.same_forecast(a, b) for a, b in zip(before, after, strict=True))
    expect(holds, "its forecasts changed after learn()", "Copy arrays and lists in snapshot().")


def snapshot_is_json(subject: PredictorSubject) -> None:
    """snapshot().to_dict() holds plain JSON values, without nan or infinity, round trip exact."""
    for predictor in fresh_and_trained(subject):
        plain = dict(predictor.snapshot().to_dict())
        try:
            text = samples.json_text(plain)
        except (TypeError, ValueError) as error:
            expect(holds=False, seen=str(error), remedy="Use float(), list() and None for unknown.")
            return
        same = samples.json_text(json.loads(text)) == text
        expect(same, "JSON text and back differs", "Use string keys.")


def memory_is_bounded(subject: PredictorSubject) -> None:
    """What a predictor holds does not grow with the labels learned, beyond its windows."""
    predictor = taught(subject.make(), samples.outcomes(2000), issue=False)
    early = _size(predictor)
    taught(predictor, samples.outcomes(2000, seed=4), issue=False)
    late = _size(predictor)
    seen = f"pickled size {early} bytes after 2000 labels, {late} after 4000"
    expect(late <= 1.1 * early + 1024, seen, "Keep statistics or a bounded window, not labels.")


def copies_go_on_alike(subject: PredictorSubject) -> None:
    """A pickled or deep copy forecasts alike, and learns on alike and independently."""
    original = trained(subject)
    pickled = pickle.loads(pickle.dumps(original))
    deep = copy.deepcopy(original)
    remedy = "Hold plain attributes: no lambdas, locks, open files or shared state."
    for copied in (pickled, deep):
        expect_same(original, copied, "a copy forecasts otherwise", remedy)
    for predictor in (original, pickled, deep):
        taught(predictor, samples.outcomes(20, seed=5))
    for copied in (pickled, deep):
        expect_same(original, copied, "a copy learns otherwise", remedy)


def is_deterministic(subject: PredictorSubject) -> None:
    """Two fresh predictors that learned the same forecast the same."""
    one, other = (trained(subject) for _ in range(2))
    remedy = "Take a seed in the constructor; share nothing between instances."
    expect_same(one, other, "two instances with one history differ", remedy)


def learns_a_linear_plant(subject: PredictorSubject) -> None:
    """1000 labels of a linear plant bring the mean error to half, or to 5 % of the latency."""
    predictor = subject.make()
    before = _relative_error(predictor)
    taught(predictor, samples.outcomes(1000, seed=6))
    after = _relative_error(predictor)
    seen = f"mean relative error {before:.3g} before, {after:.3g} after"
    expect(after <= max(0.05, 0.5 * before), seen, "Check the features and the forgetting.")


def _expect_sane(predictor: Predictor, when: str, remedy: str) -> None:
    for name, load in samples.LOADS.items():
        forecast = predictor.forecast(load, samples.clocks(9))
        for values_s in (forecast.mean_s, forecast.upper_s):
            holds = not np.isnan(values_s).any() and bool((values_s >= 0).all())
            expect(holds, f"{values_s[:3]} for {name} {when}", remedy)


def _size(predictor: Predictor) -> int:
    try:
        return len(pickle.dumps(predictor))
    except Exception as error:
        raise NotApplicable(f"it cannot be pickled ({error}); see copies_go_on_alike") from error


def _relative_error(predictor: Predictor) -> float:
    errors = []
    for outcome in samples.outcomes(100, seed=7, noise=0.0):
        clocks = np.array([outcome.clock_mhz])
        mean_s = float(predictor.forecast(outcome.load, clocks).mean_s[0])
        errors.append(min(abs(mean_s / outcome.latency_s - 1), 1.0))
    return float(np.mean(errors))
