"""Actuators that drive the GPU from their own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SETUP = """
import time
from voltana.actuators import NvmlActuator, PowerCapActuator
from voltana.values import Command, Domain, Health
domain = Domain(name="d", devices=(0, 1))
def until(holds, seconds=10):
    ends = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends:
        time.sleep(0.002)
    return holds()
def command(clock, n, lease=2.0):
    return Command(domain=domain, clock_mhz=clock, sequence=n, lease_s=lease)
"""


def test_nvml_actuator_sets_reads_back_and_restores(machine, in_process):
    answer = in_process(
        SETUP
        + """
a = NvmlActuator(domain)
a.apply(command(1005.0, 0))
there = until(lambda: a.status().clock_mhz == 1005.0)
status = a.status()
a.close()
answer = [there, status.health, status.error, a.status().health]
"""
    )
    assert answer == [True, "ok", "", "lost"]
    assert not machine.any_locked()
    assert machine.get(1, "D_SET_CALLS") == 1


def test_a_loop_that_stops_loses_its_clock(machine, in_process):
    answer = in_process(
        SETUP
        + """
a = NvmlActuator(domain)
a.apply(command(1005.0, 0, lease=0.3))
until(lambda: a.status().clock_mhz == 1005.0)
back = until(lambda: a.status().clock_mhz == 1410.0)
status = a.status()
a.apply(command(1005.0, 1))
answer = [back, status.health, status.error, until(lambda: a.status().clock_mhz == 1005.0)]
a.close()
"""
    )
    assert answer[0]
    assert answer[1] == "degraded"
    assert "no completed control step" in answer[2]
    assert answer[3]


def test_one_sick_gpu_takes_the_domain_back(machine, in_process):
    machine.fault(1, "F_SET", "K_CODE", 4)
    answer = in_process(
        SETUP
        + """
a = NvmlActuator(domain)
a.apply(command(1005.0, 0))
failed = until(lambda: a.status().health is Health.DEGRADED)
answer = [failed, a.status().error]
until(lambda: a.status().clock_mhz == 1410.0)
a.close()
"""
    )
    assert answer[0]
    assert "Run voltana-actuatord as root" in answer[1]
    assert not machine.any_locked()


def test_without_permission_it_says_so_and_ends_at_once(machine, in_process):
    machine.header("H_PRIVILEGED_UID", os.geteuid() + 1)
    answer = in_process(
        SETUP
        + """
a = NvmlActuator(domain)
a.apply(command(1005.0, 0))
until(lambda: a.status().health is Health.DEGRADED)
error = a.status().error
started = time.monotonic()
a.close()
answer = [error, time.monotonic() - started]
"""
    )
    assert "Run voltana-actuatord as root" in answer[0]
    assert answer[1] < 2.0
    assert not machine.any_locked()


def test_the_interpreters_end_restores(machine, in_process):
    in_process(
        SETUP + "a = NvmlActuator(domain)\na.apply(command(1005.0, 0))\n"
        "answer = until(lambda: a.status().clock_mhz == 1005.0)"
    )
    assert not machine.any_locked()


def test_only_the_daemon_survives_a_sigkill(machine):
    program = SETUP + "a = NvmlActuator(domain)\na.apply(command(1005.0, 0))\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], env=machine.environment())
    assert machine.wait(lambda: machine.locked_mhz(1) == 1005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert machine.any_locked()  # documented, and the reason for voltana-actuatord


def test_mig_is_refused(machine, in_process):
    machine.set(1, "D_MIG", 1)
    code = SETUP + "from voltana_actuatord.faults import MigEnabledError\n"
    code += "try:\n    NvmlActuator(domain)\n    answer = ''\n"
    code += "except MigEnabledError as error:\n    answer = str(error)"
    assert "GPU 1 is in MIG mode" in in_process(code)


def test_power_caps_are_set_in_watts_and_restored(machine, in_process):
    answer = in_process(
        SETUP
        + """
a = PowerCapActuator(domain, watts={900.0: 200.0, 1410.0: 350.0})
a.apply(command(900.0, 0))
from voltana_actuatord.drivers.nvml import Driver
gpu = Driver().gpu(1)
there = until(lambda: gpu.power_limit_w() == 200.0)
slowed = [gpu.clock_mhz(), sorted(gpu.event_reasons())]
a.close()
answer = [there, slowed, gpu.power_limit_w()]
"""
    )
    assert answer[0]
    assert answer[1][0] < 1410
    assert answer[1][1] == ["power cap"]
    assert answer[2] == 400.0


@pytest.mark.parametrize("watts", [50.0, 500.0])
def test_a_cap_outside_the_boards_range_is_refused(watts, machine, in_process):
    code = SETUP + "from voltana.errors import ConfigError\n"
    code += f"try:\n    PowerCapActuator(domain, watts={{900.0: {watts}}})\n    answer = ''\n"
    code += "except ConfigError as error:\n    answer = str(error)"
    assert "100-400 W on GPU 0" in in_process(code)
