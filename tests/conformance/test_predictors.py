"""Every predictor that ships keeps the contract of its port."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, tree

from tests.conformance.inventory import EXAMPLES, classes_with
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.conformal import Conformal
from voltana.predictors.drift import DriftAware
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.predictors.river_adapter import RiverPredictor
from voltana.predictors.tables import TablePredictor
from voltana.testing import check_power_predictor, check_predictor, samples
from voltana.testing import strategies as vst

DATASHEET = {
    "peak_flops": 312e12,
    "memory_bandwidth_bytes_per_s": 2.039e12,
    "max_clock_mhz": 1410.0,
    "tensor_parallel": 1,
    "weight_bytes": 16e9,
    "active_parameters": 7.5e9,
    "kv_bytes_per_token": 131_072,
    "layers": 32,
    "hidden_size": 4096,
    "attention_width": 4096,
}


def tables(**without):
    clocks_mhz = np.array([1005.0, 1200.0, 1410.0])
    slow = 1410.0 / clocks_mhz
    phases = {
        "prefill": np.stack([5e-5 * slow, 0.01 * slow], axis=1),
        "decode": np.tile(np.array([2e-5, 8e-8, 0.01]), (3, 20, 1)) * slow[:, None, None],
    }
    return TablePredictor(clocks_mhz=clocks_mhz, **(phases | without))


def ecopred():
    return EcoPred.from_datasheet(DATASHEET)


def bayesian():
    return linear_model.BayesianLinearRegression(smoothing=0.998)


LEARNERS = {
    "EcoPred, cold": (EcoPred, {}),
    "EcoPred, from a datasheet": (ecopred, {}),
    "EcoPred, without forgetting": (lambda: EcoPred(forgetting=1.0), {}),
    "DriftAware": (lambda: DriftAware(ecopred()), {}),
    "DriftAware, cold and quick to doubt": (lambda: DriftAware(EcoPred(), delta=0.2), {}),
    "Conformal": (lambda: Conformal(ecopred(), first=0.15), {}),
    "Conformal, cold": (lambda: Conformal(ecopred()), {}),
    # river's regressors predict one clock at a time.
    "RiverPredictor, river's": (lambda: RiverPredictor(bayesian()), {"time_limit_s": 0.1}),
    "EcoPred, with a tree": (
        lambda: EcoPred(regressor=tree.HoeffdingTreeRegressor()),
        {"time_limit_s": 0.1},
    ),
}
FIXED = {
    "TablePredictor": tables,
    "TablePredictor, decode only": lambda: tables(prefill=None),
    "TablePredictor, prefill only": lambda: tables(decode=None),
}
POWER = {
    "CautiousPower": lambda: CautiousPower(LinearPower()),
    "LinearPower": LinearPower,
    "LinearPower, of a larger board": lambda: LinearPower(max_power_w=700.0, max_clock_mhz=1980.0),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_predictors_that_learn(name):
    make, options = LEARNERS[name]
    check_predictor(make, strict=True, **options).raise_if_failed()


@pytest.mark.parametrize("name", FIXED)
def test_predictors_that_do_not(name):
    check_predictor(FIXED[name]).raise_if_failed()


@pytest.mark.parametrize("name", POWER)
def test_power_predictors(name):
    check_power_predictor(POWER[name], strict=True).raise_if_failed()


@EXAMPLES
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_survive_whatever_may_come(name, examples):
    make, _ = LEARNERS[name]

    @settings(max_examples=examples)
    @given(st.lists(vst.outcomes(), max_size=12), vst.loads())
    def check(outcomes, load):
        predictor = make()
        for outcome in outcomes:
            predictor.learn(outcome)
        forecast = predictor.forecast(load, samples.clocks())
        assert (forecast.mean_s >= 0).all()
        assert (forecast.upper_s >= forecast.mean_s).all()

    check()


def test_none_is_forgotten():
    # LinearLatency is what EcoPred hands everything on to.
    factories = (
        lambda: EcoPred()._learner,
        *(make for make, _ in LEARNERS.values()),
        *FIXED.values(),
    )
    checked = {type(make()).__name__ for make in factories}
    shipped = classes_with("voltana.predictors", "forecast", "learn", "snapshot")
    assert set(shipped) <= checked
    shipped = classes_with("voltana.predictors", "forecast_w", "learn_window")
    assert set(shipped) <= {type(make()).__name__ for make in POWER.values()}
