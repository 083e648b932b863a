"""One sick GPU beside a sound one: its owner must not notice."""

from __future__ import annotations

import time

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import HonestLoop, assert_unharmed
from voltana_actuatord.drivers.nvml_faults import NVML_CODES
from voltana_actuatord.errors import ActuatorError
from voltana_actuatord.protocol import Acquire, encode_acquire

MHZ = 1005.0
CALLS = ("F_SET", "F_RESET", "F_CLOCK", "F_REASONS", "F_HANDLE", "F_MIG", "F_TABLE", "F_POWER")


def pester(daemon, seconds):
    """Ask for the sick GPU again and again, and for its clock where it is granted."""
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        try:
            with daemon.client(0, lease_s=0.5, patience_s=0.0) as client:
                client.set(MHZ)
                time.sleep(0.05)
        except ActuatorError:
            time.sleep(0.02)


@pytest.mark.parametrize("call", CALLS)
def test_a_gpu_that_hangs_costs_the_others_nothing_and_has_a_way_back(call, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        quiet_s = honest.times_s(0.5)
        machine.fault(0, call, "K_HANG")
        before = honest.steps()
        pester(daemon, 2.0)
        assert_unharmed(honest, quiet_s, honest.since(before))
        machine.clear_faults()
        cleared_s = time.monotonic()
        assert machine.wait(lambda: not machine.locked_mhz(0))
        assert machine.unlocked_at_s(0) < cleared_s + 1.5
        with daemon.client(0, patience_s=8.0) as again:
            assert again.reach(MHZ)


@pytest.mark.parametrize("reset_ms", [60, 150])
def test_slow_resets_neither_starve_others_nor_shut_the_gpu_out(reset_ms, make_machine, tmp_path):
    machine = make_machine(D_RESET_US=reset_ms * 1000)
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        quiet_s = honest.times_s(0.5)
        before = honest.steps()
        for _ in range(3):
            with daemon.client(0, patience_s=8.0) as client:
                assert client.reach(MHZ)
            assert machine.wait(lambda: not machine.locked_mhz(0))
        assert_unharmed(honest, quiet_s, honest.since(before))


@pytest.mark.parametrize("call", CALLS)
def test_every_error_at_every_call_leaves_nothing_locked(call, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        quiet_s, before = honest.times_s(0.4), honest.steps()
        for code in NVML_CODES[:: 3 if call != "F_RESET" else 1]:
            machine.fault(0, call, "K_CODE", code, 3)
            pester(daemon, 0.15)
            machine.clear_faults()
        assert machine.wait(lambda: not machine.locked_mhz(0))
        assert_unharmed(honest, quiet_s, honest.since(before))
        with daemon.client(0, patience_s=8.0) as again:
            assert again.reach(MHZ)


def test_names_of_gpus_that_do_not_exist_fill_nothing(machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        quiet_s, before = honest.times_s(0.4), honest.steps()
        for number in range(150):
            with daemon.connect() as sock:
                sock.send(encode_acquire(Acquire("x", (uuid_of(900 + number),), 1.0)))
                assert sock.recv(16_384)[3] == 66  # REFUSED
        assert_unharmed(honest, quiet_s, honest.since(before))
        assert len(daemon.holders()) < 12
        with daemon.client(0) as again:
            assert again.reach(MHZ)


def test_a_driver_that_takes_a_second_to_open_is_opened(machine, tmp_path):
    """As one does that has to wake its GPU: without persistence mode."""
    machine.fault(0, "F_TABLE", "K_HANG", 1000, 1)
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        with daemon.client(0, patience_s=6.0) as client:
            assert client.reach(MHZ)
        assert honest.lost == 0
        assert "abandoned" not in daemon.log.read_text()
