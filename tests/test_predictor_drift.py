"""Drift: detected, doubted, learned again; and river's regressors as predictors."""

import re

import numpy as np
import pytest
from river import linear_model, preprocessing

from voltana.errors import ConfigError
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.river_adapter import RiverPredictor
from voltana.testing import samples
from voltana.values import Load, Outcome


def scaled(outcomes, factor):
    for o in outcomes:
        yield Outcome(
            load=o.load,
            clock_mhz=o.clock_mhz,
            latency_s=factor * o.latency_s,
            ended_at_s=o.ended_at_s,
        )


def run(predictor, outcomes):
    """Relative errors of the mean, and whether the bound held, label by label."""
    errors, held = [], []
    for o in outcomes:
        forecast = predictor.forecast(o.load, np.array([o.clock_mhz]))
        errors.append(abs(float(forecast.mean_s[0]) / o.latency_s - 1))
        held.append(bool(forecast.upper_s[0] >= o.latency_s))
        predictor.learn(o)
    return np.array(errors), np.array(held)


@pytest.fixture
def settled():
    predictor = DriftAware(EcoPred())
    run(predictor, samples.outcomes(1500, noise=0.03))
    return predictor


def test_noise_is_no_drift(settled):
    before = settled.drifts
    run(settled, samples.outcomes(2000, noise=0.03, seed=1))
    assert settled.drifts == before


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_it_recovers_from_a_machine_that_changed(settled, factor):
    before = settled.drifts
    changed = list(scaled(samples.outcomes(900, noise=0.03, seed=2), factor))
    errors, held = run(settled, changed)
    assert settled.drifts > before
    assert errors[-200:].mean() < 0.05
    assert held[300:].mean() > 0.97


def test_it_recovers_sooner_than_the_bare_predictor():
    late = {}
    for name, predictor in (("bare", EcoPred()), ("aware", DriftAware(EcoPred()))):
        run(predictor, samples.outcomes(1500, noise=0.03))
        errors, _ = run(predictor, scaled(samples.outcomes(600, noise=0.03, seed=2), 1.5))
        late[name] = errors[300:].mean()
    assert late["aware"] < 0.5 * late["bare"]


def test_the_bound_widens_at_once(settled):
    load = Load.decode(64, 40_000)
    clocks = np.array([1410.0])

    def margin():
        forecast = settled.forecast(load, clocks)
        return float(forecast.upper_s[0] / forecast.mean_s[0]) - 1

    calm, before = margin(), settled.drifts
    for o in scaled(samples.outcomes(500, noise=0.03, seed=3), 2.0):
        settled.learn(o)
        if settled.drifts > before:
            break
    assert settled.drifts > before
    assert margin() > 3 * calm


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delta": 1.0}, "delta = 1.0 is not allowed: must be in (0, 1)"),
        ({"factor": 0.5}, "factor = 0.5 is not allowed: must be at least 1"),
    ],
)
def test_refuses_impossible_options(options, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        DriftAware(EcoPred(), **options)


def test_any_river_regressor_or_pipeline_predicts_latency():
    pipeline = preprocessing.StandardScaler() | linear_model.LinearRegression()
    for regressor in (linear_model.BayesianLinearRegression(), pipeline):
        predictor = RiverPredictor(regressor)
        errors, _ = run(predictor, samples.outcomes(1500, noise=0.02))
        assert errors[-300:].mean() < 0.5 * errors[:50].mean()
