"""A device whose power somebody says: power, clock and energy of the driver follow it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from voltana.rehearsal.driver_view import DriverView

READ = """
import time
from voltana_actuatord.drivers.opening import open_driver
from contextlib import closing
with closing(open_driver()) as driver:
    gpu = driver.gpu(0)
    answer = [gpu.energy_j(), time.monotonic(), gpu.power_w(), gpu.clock_mhz(),
              sorted(gpu.event_reasons())]
"""


def test_power_and_energy_follow_what_is_said_at_the_rehearsals_pace(machine, in_process) -> None:
    machine.header("H_TIME_PPM", 250_000)
    view = DriverView(machine.path, (0,))
    at_ns = time.monotonic_ns()
    view.say(at_ns, 1000.0, 300.0, 0.0)
    energy_j, read_s, power_w, clock_mhz, _ = in_process(READ)
    assert power_w == 300.0
    assert clock_mhz == 1410.0
    since_s = (read_s - at_ns * 1e-9) * 0.25
    tick_j = 0.02 * 0.25 * 300.0
    assert 1000.0 + 300.0 * since_s - 2 * tick_j <= energy_j <= 1000.0 + 300.0 * since_s + 0.01
    view.say(time.monotonic_ns(), 0.0, 10.0, 0.0)
    assert in_process(READ)[0] >= energy_j, "a counter that falls"
    view.close()


def test_a_clock_that_the_power_limit_lowers_is_read_with_its_reason(machine, in_process) -> None:
    view = DriverView(machine.path, (0,))
    view.say(time.monotonic_ns(), 0.0, 400.0, 1200.0)
    _, _, _, clock_mhz, reasons = in_process(READ)
    assert clock_mhz == 1200.0
    assert any("power" in reason for reason in reasons)
    view.close()


def test_several_devices_share_what_is_said_and_hold_the_slowest_clock(machine) -> None:
    view = DriverView(machine.path, (0, 1))
    assert view.asked().clock_mhz == 1410.0
    machine.lock_from_outside(1, 900)
    assert view.asked().clock_mhz == 900.0
    view.say(5, 10.0, 500.0, 0.0)
    assert [machine.get(device, "D_SAID_MW") for device in (0, 1)] == [250_000, 250_000]
    view.close()


def test_what_an_engine_leaves_behind_idles(machine, in_process) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from voltana.rehearsal.driver_view import DriverView;"
        "DriverView(Path(sys.argv[1]), (0,)).say(time.monotonic_ns(), 0.0, 300.0, 0.0)"
    )
    subprocess.run([sys.executable, "-c", program, str(machine.path)], check=True)
    assert in_process(READ)[2] == pytest.approx(machine.get(0, "D_IDLE_MW") / 1e3)
