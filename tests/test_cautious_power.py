"""CautiousPower: above its inner model, by as much as that was lately wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.linear_power import LinearPower
from voltana.values import Exposure, Load

CLOCKS = np.array([600.0, 1005.0, 1410.0])
LOAD = Load.decode(64, 40_000)


class Always:
    """A model that never learns."""

    def __init__(self, power_w):
        self.power_w = power_w

    def forecast_w(self, load, clocks_mhz):
        return np.full(len(clocks_mhz), self.power_w)

    def learn_window(self, energy_j, exposures):
        pass


def window(power_w, mhz=1005.0):
    return power_w * 2.0, (Exposure(load=LOAD, clock_mhz=mhz, duration_s=2.0),)


def test_it_starts_high_and_comes_down_as_the_model_learns():
    inner = LinearPower()
    power = CautiousPower(inner)
    assert power.forecast_w(LOAD, CLOCKS) == pytest.approx(1.5 * inner.forecast_w(LOAD, CLOCKS))
    for _ in range(12):
        power.learn_window(*window(230.0))
    bound_w = power.forecast_w(LOAD, np.array([1005.0]))[0]
    assert bound_w == pytest.approx(230.0, rel=0.03)
    assert bound_w == pytest.approx(inner.forecast_w(LOAD, np.array([1005.0]))[0], rel=0.02)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(20.0, 390.0), min_size=1, max_size=30), st.floats(50.0, 300.0))
def test_every_window_is_covered_from_then_on_while_it_lasts(powers_w, model_w):
    power = CautiousPower(Always(model_w))
    for power_w in powers_w:
        power.learn_window(*window(power_w))
        assert power.forecast_w(LOAD, CLOCKS)[1] >= min(power_w, 2 * model_w) - 1e-9
        assert power.excess >= 0


def test_a_model_of_the_wrong_form_stays_covered():
    power = CautiousPower(Always(100.0))
    for _ in range(10):
        power.learn_window(*window(140.0))
    assert power.forecast_w(LOAD, CLOCKS)[0] == pytest.approx(140.0)


@pytest.mark.parametrize("energy_j", [math.nan, math.inf, 0.0, -5.0])
def test_broken_windows_change_nothing(energy_j):
    power = CautiousPower(Always(100.0))
    power.learn_window(energy_j, window(100.0)[1])
    assert power.excess == 0.5


def test_a_jump_of_the_counter_is_not_believed():
    power = CautiousPower(Always(100.0))
    power.learn_window(1e9, window(100.0)[1])
    assert power.excess == 1.0


@pytest.mark.parametrize(("field", "value"), [("start", -0.1), ("start", math.inf), ("keep", 1.0)])
def test_arguments_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        CautiousPower(Always(1.0), **{field: value})
