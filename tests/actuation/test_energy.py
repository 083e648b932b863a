"""Energy windows: the counter, the integrated power, and which of them a figure comes from."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voltana.actuators.energy import EnergyMeter, EnergySource
from voltana.errors import ConfigError
from voltana.values import Reading


class Board:
    """A sensor of constant power whose counter ticks."""

    def __init__(self, power_w=300.0, tick_s=0.1, scale=1.0):
        self.now_s = 100.0
        self.power_w = power_w
        self.tick_s = tick_s
        self.scale = scale
        self.offset_j = 5e6

    def read(self):
        ticks = math.floor(self.now_s / self.tick_s + 1e-9)
        energy_j = self.offset_j + ticks * self.tick_s * self.power_w * self.scale
        return Reading(at_s=self.now_s, clock_mhz=1410.0, power_w=self.power_w, energy_j=energy_j)


def windows(board, meter, seconds, step_s=0.1):
    found, started_s = [], board.now_s
    for step in range(1, round(seconds / step_s) + 1):
        board.now_s = started_s + step * step_s
        window = meter.sample()
        if window is not None:
            found.append(window)
    return found


def test_counter_and_power_agree_on_a_sound_board():
    board = Board()
    meter = EnergyMeter(board, window_s=2.0)
    found = windows(board, meter, 10.0)
    assert len(found) == 5
    for window in found:
        assert window.source is EnergySource.COUNTER
        assert window.energy_j == pytest.approx(600.0, rel=0.06)
        assert window.integrated_j == pytest.approx(600.0, rel=0.06)
        assert window.mean_w == pytest.approx(300.0, rel=0.06)
        assert window.agree
    assert meter.total_j == pytest.approx(3000.0, rel=0.02)


def test_a_disagreement_is_told_and_the_counter_is_taken():
    board = Board(scale=0.5)
    (window,) = windows(board, EnergyMeter(board, window_s=2.0), 2.05)
    assert window.agree is False
    assert window.energy_j == window.counter_j == pytest.approx(300.0, rel=0.06)


def test_without_a_counter_power_stands_in():
    board = Board(scale=math.nan)
    (window,) = windows(board, EnergyMeter(board, window_s=2.0), 2.05)
    assert window.source is EnergySource.POWER
    assert window.energy_j == pytest.approx(600.0, rel=0.06)
    assert window.agree is None


def test_a_counter_that_starts_again_is_not_believed():
    board = Board()
    meter = EnergyMeter(board, window_s=2.0)
    board.offset_j = 0.0
    (window,) = windows(board, meter, 2.05)
    assert window.source is EnergySource.POWER


def test_seldom_samples_leave_the_counter_alone():
    board = Board()
    (window,) = windows(board, EnergyMeter(board, window_s=2.0), 2.0, step_s=2.0)
    assert window.source is EnergySource.COUNTER
    assert math.isnan(window.integrated_j)
    assert window.agree is None


def test_a_window_must_be_long_against_a_tick():
    with pytest.raises(ConfigError, match=r"window_s = 0\.5 .*at least 1 s"):
        EnergyMeter(Board(), window_s=0.5)


def test_a_counter_of_more_than_the_gpu_gives_way_to_power():
    board = Board(scale=1.4)  # the module's: CPU and memory are in it, too
    meter = EnergyMeter(board, window_s=2.0)
    first, second = windows(board, meter, 4.05)
    for window in (first, second):
        assert window.agree is False
        assert window.source is EnergySource.POWER
        assert window.energy_j == window.integrated_j == pytest.approx(600.0, rel=0.06)
    assert meter.source is EnergySource.POWER


def test_a_counter_found_to_count_too_much_is_not_believed_where_power_is_missing():
    board = Board(scale=1.4)
    meter = EnergyMeter(board, window_s=2.0)
    windows(board, meter, 2.0)
    board.power_w = math.nan
    board.read = lambda: Reading(
        at_s=board.now_s, clock_mhz=1410.0, power_w=math.nan, energy_j=5e6 + 420 * board.now_s
    )
    (window,) = windows(board, meter, 2.05)
    assert window.source is EnergySource.NONE
    assert (window.measured_j, window.gap_s) == (0.0, pytest.approx(2.0))


def test_a_counter_that_stands_still_is_not_believed():
    (window,) = windows(board := Board(scale=0.0), EnergyMeter(board, window_s=2.0), 2.05)
    assert window.source is EnergySource.POWER
    assert window.energy_j == pytest.approx(600.0, rel=0.06)


class Stalling(Board):
    """A counter that stands still for a while, and then catches up or goes on from there."""

    def __init__(self, begins_s, ends_s, *, catches_up, power_known=True):
        super().__init__()
        self.begins_s, self.ends_s = begins_s, ends_s
        self.catches_up, self.power_known = catches_up, power_known

    def read(self):
        told = super().read()
        lost_s = min(max(self.now_s - self.begins_s, 0.0), self.ends_s - self.begins_s)
        if self.catches_up and self.now_s >= self.ends_s:
            lost_s = 0.0
        return Reading(
            at_s=told.at_s,
            clock_mhz=told.clock_mhz,
            power_w=told.power_w if self.power_known else math.nan,
            energy_j=told.energy_j - lost_s * self.power_w,
        )


@example(begins_s=108.5, lasts_s=2.0, catches_up=True)  # over the end of a window
@given(
    begins_s=st.floats(100.0, 118.0),
    lasts_s=st.floats(1.5, 12.0),
    catches_up=st.booleans(),
)
def test_a_counter_that_stands_still_for_a_part_of_a_window_gives_way_to_power(
    begins_s, lasts_s, catches_up
):
    board = Stalling(begins_s, begins_s + lasts_s, catches_up=catches_up)
    board.tick_s = 0.01
    meter = EnergyMeter(board, window_s=10.0)
    closed = windows(board, meter, 31.0)  # a counter that has just stood still is waited for
    lasted_s = sum(window.duration_s for window in closed)
    assert lasted_s >= 30.0 - 1e-6
    # What straddles two windows for less than is long against a tick may be missed in one of them.
    known_j = meter.total_j + meter.gap_s * 300.0
    assert known_j == pytest.approx(300.0 * lasted_s, abs=2 * 0.6 * 300.0)


def test_where_power_is_missing_too_a_counter_that_stands_still_is_a_gap():
    board = Stalling(104.0, 108.0, catches_up=True, power_known=False)
    board.tick_s = 0.01
    meter = EnergyMeter(board, window_s=10.0)
    (window,) = windows(board, meter, 10.05)
    assert window.gap_s == pytest.approx(4.0, abs=0.2)
    assert window.measured_j == pytest.approx(1800.0, abs=60.0)
    assert math.isnan(window.energy_j)
    assert meter.total_j == window.measured_j


def test_negative_power_is_no_power():
    board = Board()
    board.read = lambda: Reading(
        at_s=board.now_s, clock_mhz=1410.0, power_w=-5.0, energy_j=math.nan
    )
    meter = EnergyMeter(board, window_s=2.0)
    windows(board, meter, 2.05)
    assert (meter.total_j, meter.gap_s) == (0.0, pytest.approx(2.0))


def test_a_counter_that_starts_again_above_where_the_window_began_is_not_believed():
    board = Board()
    board.offset_j = -30_000.0  # near zero where the window begins
    meter = EnergyMeter(board, window_s=2.0)
    board.offset_j -= 200.0
    (window,) = windows(board, meter, 2.05)
    assert math.isnan(window.counter_j)
    assert window.source is EnergySource.POWER
    assert window.energy_j == pytest.approx(600.0, rel=0.06)


FAULTS = ("power", "counter", "both", "restart", "jump")


class Faulty(Board):
    """A board of which something cannot be read at some samples."""

    def __init__(self, faults):
        super().__init__()
        self.faults, self.sample = faults, -1

    def read(self):
        sound = super().read()
        fault = self.faults.get(self.sample)
        self.sample += 1
        if fault == "restart":
            self.offset_j = -self.now_s * self.power_w
            sound = super().read()
        return Reading(
            at_s=sound.at_s,
            clock_mhz=sound.clock_mhz,
            power_w=math.nan if fault in {"power", "both"} else sound.power_w,
            energy_j=math.nan
            if fault in {"counter", "both"}
            else sound.energy_j + 1e9 * (fault == "jump"),
        )


@given(
    faults=st.dictionaries(st.integers(-1, 59), st.sampled_from(FAULTS), max_size=25),
    step_s=st.sampled_from([0.1, 0.3, 1.0]),
)
def test_no_fault_at_any_moment_makes_a_total_unknown(faults, step_s):
    board = Faulty(faults)
    meter = EnergyMeter(board, window_s=2.0)
    found = windows(board, meter, 60 * step_s, step_s)
    known_s = sum(window.duration_s for window in found) - meter.gap_s
    assert math.isfinite(meter.total_j)
    assert meter.total_j == pytest.approx(sum(window.measured_j for window in found))
    assert 0.0 <= meter.gap_s <= sum(window.duration_s for window in found) + 1e-9
    # What is known is right: 300 W over the seconds that are, to a tick at the end of each window.
    assert abs(meter.total_j - 300.0 * known_s) <= 31.0 * (len(found) + len(faults) + 1)
    for window in found:
        assert (window.gap_s == 0.0) == math.isfinite(window.energy_j)
        assert (window.source is EnergySource.NONE) == (window.measured_j == 0.0)


@pytest.mark.parametrize("moment", range(-1, 21))
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_costs_no_more_than_its_moment(fault, moment):
    board = Faulty({moment: fault})
    meter = EnergyMeter(board, window_s=2.0)
    found = windows(board, meter, 6.0)
    known_s = sum(window.duration_s for window in found) - meter.gap_s
    assert meter.gap_s <= 0.2 + 1e-9
    assert meter.total_j == pytest.approx(300.0 * known_s, rel=0.06)
    assert all(math.isfinite(window.energy_j) for window in found if window.gap_s == 0.0)


def test_on_the_driver(machine, in_process):
    counter_j, integrated_j, agree, watts = in_process(
        """
import time
from voltana.actuators import EnergyMeter, GpuSensor, gpu_uuids
from voltana.timebase import MonotonicTime
from voltana.values import Domain
sensor = GpuSensor(Domain(name="d", devices=gpu_uuids((0, 1))), MonotonicTime())
meter, window = EnergyMeter(sensor, window_s=1.0), None
while window is None:
    time.sleep(0.05)
    window = meter.sample()
sensor.close()
answer = [window.counter_j, window.integrated_j, window.agree, window.mean_w]
"""
    )
    assert agree
    assert watts == pytest.approx(2 * 380.0, rel=0.15)
    assert counter_j == pytest.approx(integrated_j, rel=0.15)
