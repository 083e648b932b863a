"""A gap that is about to be late: what a faster clock that settles first can still keep."""

from __future__ import annotations

import numpy as np
import pytest

from voltana.controllers.held_back import held_clock
from voltana.controllers.this_gap import CHANGE_S, after_change_s, keeping_level
from voltana.predictors.linear_power import LinearPower
from voltana.values import Load

LEVELS = np.array([500.0, 750.0, 1000.0])
WORK_S = np.array([0.1, 0.2 / 3.0, 0.05])


def keeping(left_s, clock_mhz, upper=1.0):
    return keeping_level(upper * WORK_S, WORK_S, left_s, levels_mhz=LEVELS, clock_mhz=clock_mhz)


def test_until_a_change_has_settled_the_clock_before_does_the_work():
    settling_s = CHANGE_S / 2.0
    after_s = after_change_s(WORK_S, LEVELS, 500.0)
    assert after_s[0] == pytest.approx(0.1)
    # A quarter of the work is done meanwhile, the rest at twice the speed.
    assert after_s[-1] == pytest.approx(settling_s + 0.75 * 0.05)
    assert after_change_s(WORK_S, LEVELS, 1000.0) == pytest.approx(WORK_S)
    short_s = WORK_S / 10.0  # has ended before anything changes
    assert after_change_s(short_s, LEVELS, 500.0) == pytest.approx([short_s[0]] * 3)


@pytest.mark.parametrize(
    ("left_s", "clock_mhz", "level"),
    [(0.1, 500.0, 0), (0.08, 500.0, 1), (0.07, 500.0, 2), (0.06, 500.0, None), (0.06, 1000.0, 2)],
)
def test_a_rise_that_comes_too_late_is_not_asked_for(left_s, clock_mhz, level):
    assert keeping(left_s, clock_mhz) == level


def test_a_gap_that_is_kept_more_likely_than_not_is_worth_the_fastest_level():
    assert keeping(0.055, 1000.0, upper=1.2) == 2
    assert keeping(0.045, 1000.0, upper=1.2) is None
    nothing = np.zeros(3)
    assert keeping_level(nothing, nothing, 0.1, levels_mhz=LEVELS, clock_mhz=500.0) == 0


def test_boards_at_their_limit_hold_a_clock_between_two_levels():
    power = LinearPower(max_clock_mhz=1000.0, max_power_w=400.0)
    load, levels = Load.prefill([(4096, 0)]), np.linspace(500.0, 1000.0, 11)
    drawn_w = power.forecast_w(load, levels)
    limit_w = float(drawn_w[6:8].mean())
    held = held_clock(power, load, levels, limit_w)
    assert held is not None
    assert held.over == 7
    assert float(held.least_s(1.0 / levels)) == pytest.approx(float((1 / levels[6:8]).mean()))
    assert held_clock(power, load, levels, float(drawn_w[-1])) is None
