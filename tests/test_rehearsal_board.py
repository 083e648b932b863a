"""The boards of a rehearsal compute as the plant's do, whenever a clock changes under them."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.plant.board import SimulatedBoard
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.plant.noise import LognormalNoise
from voltana.rehearsal.driver_view import Asked, DriverView
from voltana.rehearsal.live_board import LiveBoard
from voltana.rehearsal.live_runner import LiveRunner
from voltana.rehearsal.machine import Machine
from voltana.values import EMPTY_QUEUE, Load

HARDWARE = load_hardware("a100-sxm4-80gb")
PLANT = PlantModel(HARDWARE, load_model("llama-3.1-8b"))
SETTLE_S = 0.03
PACE = 0.25
LOADS = (Load.decode(40, 30_000), Load.prefill([(6000, 0)]), Load.prefill([(8192, 8192)]))


class Driver:
    """The fake driver's memory, in the rehearsal's time."""

    def __init__(self):
        self.clock_mhz, self.changed_s = 1410.0, -math.inf
        self.said = []

    def set(self, clock_mhz, now_s):
        self.clock_mhz, self.changed_s = clock_mhz, now_s

    def asked(self):
        in_force_s = self.changed_s + SETTLE_S
        return Asked(self.clock_mhz, 0 if in_force_s < 0 else int(in_force_s / PACE * 1e9))

    def say(self, at_ns, energy_j, power_w, limited_mhz):
        self.said.append((at_ns * 1e-9 * PACE, energy_j, power_w, limited_mhz))


class Events:
    def __init__(self):
        self.scheduled = []

    def schedule(self, at_s, action):
        self.scheduled.append((at_s, action))


class Silent:
    def launched(self, now_s):
        pass

    finished = idle = launched


CHANGES = st.lists(
    st.tuples(st.floats(0.001, 0.3), st.sampled_from(HARDWARE.clocks_mhz)), max_size=5
)


@given(load=st.sampled_from(LOADS), changes=CHANGES, late_s=st.floats(0.0, 0.004))
def test_an_iteration_ends_when_the_plants_board_would_end_it(load, changes, late_s):
    """The engine looks now and then; what it finds counts from when the driver says."""
    plant_board = SimulatedBoard(
        PLANT,
        clock_mhz=1410.0,
        call_noise=LognormalNoise(np.random.default_rng(0), 0.0),
        call_s=0.0,
        settle_s=SETTLE_S,
        energy_tick_s=0.05,
    )
    driver, events, ends = Driver(), Events(), []
    board = LiveBoard(PLANT, driver, now_s=0.0, pace=PACE)
    runner = LiveRunner(board, events, LognormalNoise(np.random.default_rng(0), 0.0))
    runner.observer, runner.revise = Silent(), ends.append
    ends.append(runner.begin(load, EMPTY_QUEUE, 0.0))
    at_s = 0.0
    for gap_s, clock_mhz in changes:
        at_s += max(gap_s, SETTLE_S + 0.005)  # the last one has settled
        if at_s + SETTLE_S + 0.005 >= ends[-1]:
            break
        plant_board.request(at_s, clock_mhz)
        driver.set(clock_mhz, at_s)
        runner.follow(at_s + late_s)
        for due_s, action in events.scheduled:
            action(due_s + late_s)
        events.scheduled.clear()
    mean_mhz = plant_board.run(load, 1.0)
    runner.finish(ends[-1])
    assert ends[-1] == pytest.approx(plant_board.at_s, rel=1e-6)
    assert board.energy_j == pytest.approx(plant_board.energy_j, rel=1e-6)
    assert runner.rows[0].clock_mhz == pytest.approx(mean_mhz, rel=1e-6)


def test_what_is_said_of_the_power_makes_the_boards_energy():
    driver = Driver()
    board = LiveBoard(PLANT, driver, now_s=10.0, pace=PACE)
    board.begin(LOADS[0], 1.0, 10.5)
    board.finish(board.end_s)
    board.begin(LOADS[1], 1.0, board.at_s + 0.2)
    board.finish(board.end_s)
    energy_j, (at_s, _, power_w, _) = 0.0, driver.said[0]
    for next_s, said_j, next_w, _ in driver.said[1:]:
        energy_j += power_w * (next_s - at_s)
        assert said_j == pytest.approx(energy_j, rel=1e-6)
        at_s, power_w = next_s, next_w
    assert energy_j == pytest.approx(board.energy_j, rel=1e-6)


def test_a_board_at_its_power_limit_says_the_clock_that_it_is_lowered_to():
    driver = Driver()
    board = LiveBoard(PLANT, driver, now_s=0.0, pace=PACE)
    load = LOADS[2]
    board.begin(load, 1.0, 1.0)
    real_mhz = PLANT.iterate(load, 1410.0).clock_mhz
    assert driver.said[-1][3] == pytest.approx(real_mhz if real_mhz < 1410.0 else 0.0)
    board.finish(board.end_s)
    assert driver.said[-1][3] == 0.0
    assert driver.said[-1][2] == pytest.approx(PLANT.idle_power_w(1410.0))


def test_a_counter_goes_on_from_what_it_had_counted_before_the_engine_came(tmp_path):
    """It never falls: an engine that began at 0 would draw nothing until it had caught up."""
    with Machine(tmp_path, tmp_path, 2) as machine:
        machine.set(0, "D_ENERGY_MJ", 7000)
        view = DriverView(machine.path, (0, 1))
        assert not machine.get(0, "D_SAID_BY")  # until there is something to be followed
        view.say(1, 4.0, 100.0, 0.0)
        assert [machine.get(gpu, "D_SAID_UJ") for gpu in (0, 1)] == [9_000_000, 2_000_000]
        assert machine.get(1, "D_SAID_MW") == 50_000
        assert machine.get(1, "D_SAID_BY") == os.getpid()
        view.close()
