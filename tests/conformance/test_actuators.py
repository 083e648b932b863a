"""Every actuator that ships, and the plant's, keep the contract of the port."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.actuation.test_conformance import CHECKED_AGAINST_THE_DRIVER
from tests.conformance.inventory import classes_with
from tests.honest import HonestActuator
from tests.plants import LinearPlant
from voltana.actuators.dry_run import DryRun
from voltana.actuators.recording import RecordingActuator
from voltana.levels import A100_CLOCKS_MHZ
from voltana.plant.adapters import SimulatedActuator
from voltana.plant.board import SimulatedBoard
from voltana.plant.noise import LognormalNoise
from voltana.testing import check_actuator
from voltana.timebase import ManualTime


class Settles:
    """Makes actuators on manual time, and moves that time for whichever is asked to settle."""

    def __init__(self, make, *, settle_s=0.2):
        self.make = make
        self.settle_s = settle_s
        self.times = {}

    def __call__(self):
        time = ManualTime(5.0)
        actuator = self.make(time)
        self.times[id(actuator)] = (time, actuator)
        return actuator

    def settle(self, actuator):
        self.times[id(actuator)][0].advance(self.settle_s)


def simulated(time, table_mhz=A100_CLOCKS_MHZ, deviation=0.0):
    board = SimulatedBoard(
        LinearPlant(),
        clock_mhz=table_mhz[-1],
        call_noise=LognormalNoise(np.random.default_rng(0), deviation),
        call_s=0.004,
        settle_s=0.03,
        energy_tick_s=0.1,
    )
    return SimulatedActuator(board, time, table_mhz)


CASES = {
    "SimulatedActuator": (simulated, {}),
    "SimulatedActuator, with noise": (lambda time: simulated(time, deviation=0.3), {}),
    "SimulatedActuator, of one clock": (lambda time: simulated(time, (1410.0,)), {}),
    "RecordingActuator": (lambda time: RecordingActuator(A100_CLOCKS_MHZ, time=time), {}),
    "RecordingActuator, slow": (
        lambda time: RecordingActuator(A100_CLOCKS_MHZ, time=time, settle_s=0.1),
        {},
    ),
    "RecordingActuator, with a default": (
        lambda time: RecordingActuator(A100_CLOCKS_MHZ, time=time, default_mhz=1005.0),
        {"default_mhz": 1005.0},
    ),
    # A dry run reads a device that goes its own way: its clock need not come near the target.
    "DryRun": (lambda time: DryRun(HonestActuator()), {"tolerance_mhz": math.inf}),
}


@pytest.mark.parametrize("name", CASES)
def test_actuators(name):
    make, options = CASES[name]
    factory = Settles(make)
    check_actuator(factory, settle=factory.settle, **options).raise_if_failed()


def test_a_dry_run_does_not_touch_the_device():
    devices = []

    def dry_run():
        devices.append(HonestActuator())
        return DryRun(devices[-1])

    check_actuator(dry_run, tolerance_mhz=math.inf, timeout_s=0.01).raise_if_failed()
    assert {device.sequence for device in devices} == {-1}


def test_none_is_forgotten():
    shipped = classes_with("voltana.actuators", "table", "apply", "status", "close")
    checked = {type(make(ManualTime())).__name__ for make, _ in CASES.values()}
    checked |= CHECKED_AGAINST_THE_DRIVER
    assert set(shipped) <= checked
