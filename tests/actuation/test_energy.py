"""Energy windows: the counter, the integrated power, and which of them a figure comes from."""

from __future__ import annotations

import math

import pytest

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
