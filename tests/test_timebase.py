"""Time that runs forwards, and periods without drift."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.ports import TimeSource
from voltana.timebase import ControlPeriod, ManualTime, MonotonicTime


@given(st.lists(st.floats(0, 10), max_size=20))
def test_manual_time_moves_only_when_told_to(steps_s):
    time = ManualTime(5.0)
    for step_s in steps_s:
        before_s = time.now_s()
        assert time.now_s() == before_s
        time.advance(step_s)
        assert time.now_s() == before_s + step_s


def test_time_never_runs_backwards():
    time = ManualTime(5.0)
    with pytest.raises(ConfigError, match=r"now_s = 4\.0 .*at least 5\.0 s.*backwards"):
        time.advance_to(4.0)
    with pytest.raises(ConfigError, match="backwards"):
        time.advance(-0.5)
    assert time.now_s() == 5.0


def test_real_time_is_monotonic_and_both_are_time_sources():
    real = MonotonicTime()
    assert real.now_s() <= real.now_s()
    assert isinstance(real, TimeSource)
    assert isinstance(ManualTime(), TimeSource)


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan")])
def test_a_period_needs_a_length(period_s):
    with pytest.raises(ConfigError, match=r"period_s = .*above 0 s"):
        ControlPeriod(period_s, start_s=0.0)


def test_a_period_stays_on_its_grid_when_it_is_asked_late():
    period = ControlPeriod(5.0, start_s=1.0)
    assert not period.due(5.9)
    assert period.due(6.2)
    assert not period.due(6.2)
    assert not period.due(10.9)
    assert period.due(11.0)


def test_missed_periods_count_once():
    period = ControlPeriod(1.0, start_s=0.0)
    assert period.due(7.5)
    assert not period.due(7.9)
    assert period.due(8.0)


@given(
    st.integers(1, 1000).map(lambda tenths: tenths / 8),
    st.lists(st.integers(0, 80).map(lambda eighths: eighths / 8), max_size=60),
)
def test_ticks_never_outnumber_the_periods_that_passed(period_s, steps_s):
    period, now_s, ticks = ControlPeriod(period_s, start_s=0.0), 0.0, 0
    for step_s in steps_s:
        now_s += step_s
        ticks += period.due(now_s)
        assert ticks <= now_s // period_s
        assert not period.due(now_s)
    assert (ticks > 0) == (now_s >= period_s)
