"""Every predictor that ships keeps the contract of its port."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.inventory import classes_with
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.predictors.tables import TablePredictor
from voltana.testing import check_power_predictor, check_predictor

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


LEARNERS = {
    "EcoPred, cold": EcoPred,
    "EcoPred, from a datasheet": lambda: EcoPred.from_datasheet(DATASHEET),
    "EcoPred, without forgetting": lambda: EcoPred(forgetting=1.0),
}
FIXED = {
    "TablePredictor": tables,
    "TablePredictor, decode only": lambda: tables(prefill=None),
    "TablePredictor, prefill only": lambda: tables(decode=None),
}
POWER = {
    "LinearPower": LinearPower,
    "LinearPower, of a larger board": lambda: LinearPower(max_power_w=700.0, max_clock_mhz=1980.0),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_predictors_that_learn(name):
    check_predictor(LEARNERS[name], strict=True).raise_if_failed()


@pytest.mark.parametrize("name", FIXED)
def test_predictors_that_do_not(name):
    check_predictor(FIXED[name]).raise_if_failed()


@pytest.mark.parametrize("name", POWER)
def test_power_predictors(name):
    check_power_predictor(POWER[name], strict=True).raise_if_failed()


def test_none_is_forgotten():
    checked = {type(make()).__name__ for make in (*LEARNERS.values(), *FIXED.values())}
    shipped = classes_with("voltana.predictors", "forecast", "learn", "snapshot")
    assert set(shipped) <= checked
    shipped = classes_with("voltana.predictors", "forecast_w", "learn_window")
    assert set(shipped) <= {type(make()).__name__ for make in POWER.values()}
