"""Drivers that forget handles, hang where they open, or ignore resets; foreign hands."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.actuation.daemons import Daemon
from tests.attack.clock_honesty import HonestLoop
from voltana_actuatord.console import daemon_status
from voltana_actuatord.faults import LeaseRefusedError

MHZ = 1005.0
STARVED_S = 1.0
"""What a test machine with more work than cores may add."""

FOR_EVER = 0xFFFFFFFF


def fall_off(machine, device):
    """The GPU is lost to all who hold it, and not in the list."""
    machine.set(device, "D_GONE", 1)


def come_back(machine, device):
    """It is in the list again, with its lock; older handles stay lost for ever, as NVML's do."""
    machine.set(device, "D_BORN", machine.get(device, "D_BORN") + 1)
    machine.set(device, "D_GONE", 0)


@pytest.mark.parametrize("gone_s", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("steps", [True, False])
def test_a_gpu_that_fell_off_and_came_back_is_unlocked_through_a_new_handle(
    gone_s, steps, machine, daemon
):
    with HonestLoop(daemon) as honest, daemon.client(0, lease_s=0.5) as client:
        assert client.reach(MHZ)
        fall_off(machine, 0)
        ends_s = time.monotonic() + gone_s
        while time.monotonic() < ends_s:
            if steps:
                client.set(MHZ)
            time.sleep(0.02)
        come_back(machine, 0)
        back_s = time.monotonic()
        assert machine.wait(lambda: not machine.locked_mhz(0), 5.0), daemon.log.read_text()
        assert machine.unlocked_at_s(0) < back_s + 0.5 + 0.5 + STARVED_S
        assert honest.times_s(0.2)
        assert honest.lost == 0
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)


def test_a_gpu_that_was_another_between_two_leases_is_lent_again(machine, daemon):
    with daemon.client(0) as client:
        assert client.reach(MHZ)
    assert machine.wait(lambda: not machine.any_locked())
    fall_off(machine, 0)
    come_back(machine, 0)
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)


@pytest.mark.parametrize("seconds", [1.0, pytest.param(9.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["init", "enumeration"])
def test_a_driver_that_hung_while_it_was_opened_is_asked_afresh(where, seconds, machine, daemon):
    """The calls that hung never return: only those made after it answers do."""
    with daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        if where == "init":
            machine.header("H_INIT_MS", FOR_EVER)
        else:
            machine.fault(0, "F_HANDLE", "K_HANG")
        os.kill(daemon.holders()[0], signal.SIGKILL)
        time.sleep(seconds)
        assert machine.locked_mhz(0)
        machine.header("H_INIT_MS", 0)
        machine.clear_faults()
        answers_s = time.monotonic()
        assert machine.wait(lambda: not machine.locked_mhz(0), 5.0), daemon.log.read_text()
        assert machine.unlocked_at_s(0) < answers_s + 0.5 + STARVED_S
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)


def test_an_init_that_takes_long_is_waited_for(machine, daemon):
    with daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        machine.header("H_INIT_MS", 900)
        os.kill(daemon.holders()[0], signal.SIGKILL)
        killed_s = time.monotonic()
        assert machine.wait(lambda: not machine.locked_mhz(0), 5.0), daemon.log.read_text()
        assert machine.unlocked_at_s(0) < killed_s + 0.9 + 0.5 + STARVED_S


def test_resets_ignored_on_one_of_two_gpus_of_a_domain_cost_the_other_nothing(machine, daemon):
    client = daemon.client(0, 1, lease_s=0.5)
    assert client.reach(MHZ)
    machine.fault(0, "F_RESET", "K_SILENT")
    client.actuator.close()
    closed_s = time.monotonic()
    assert machine.wait(lambda: not machine.locked_mhz(1))
    assert machine.unlocked_at_s(1) < closed_s + 0.5 + STARVED_S
    assert machine.locked_mhz(0) == MHZ
    with daemon.client(1) as other:
        assert other.reach(1200.0)
        assert machine.wait(lambda: _state(daemon, 0) == "doubtful")
        calls = machine.get(0, "D_RESET_CALLS")
        assert machine.wait(lambda: machine.get(0, "D_RESET_CALLS") > calls + 4, 4.0)  # retried
        assert other.reach(900.0)
    machine.clear_faults()
    assert machine.wait(lambda: not machine.any_locked(), 0.5 + STARVED_S)


def test_a_reset_that_ends_at_a_foreign_clock_is_no_success(machine, daemon):
    """The driver reports success, and another tool's clock is what is read back."""
    client = daemon.client(0)
    assert client.reach(MHZ)
    machine.fault(0, "F_RESET", "K_SILENT", 0, 40)
    machine.lock_from_outside(0, 900)
    client.actuator.close()
    assert machine.wait(lambda: _state(daemon, 0) in {"doubtful", "restoring"})
    assert machine.wait(lambda: not machine.locked_mhz(0))
    with daemon.client(0) as again:
        assert again.reach(MHZ)


@pytest.mark.parametrize("code", [15, 6])
def test_an_error_that_says_lost_in_a_read_back_ends_the_lease_and_passes(code, machine, daemon):
    with daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        machine.fault(0, "F_CLOCK", "K_CODE", code, 6)
        client.set(1200.0)
        assert machine.wait(lambda: not machine.locked_mhz(0), 2.0)
    with daemon.client(0, patience_s=4.0) as again:
        assert again.reach(MHZ)


def test_mig_in_the_moment_between_lease_and_first_command_locks_nothing(machine, daemon):
    with daemon.client(0) as client:
        machine.set(0, "D_MIG", 1)
        calls = len(machine.set_calls())
        client.set(MHZ)
        assert machine.wait(lambda: "MIG" in client.actuator.status().error)
        assert len(machine.set_calls()) == calls


def test_a_foreign_range_whose_top_is_the_fastest_clock_ends_the_lease(machine, daemon):
    """`nvidia-smi -lgc 900,1410`: under load it runs as if nothing were set."""
    with daemon.client(0) as client:
        assert client.reach(MHZ)
        machine.set(0, "D_LOCK", 900 << 32 | 1410 << 16 | 1005)
        ends_s = time.monotonic() + 5.0
        while "another tool" not in client.actuator.status().error and time.monotonic() < ends_s:
            client.set(MHZ)
            time.sleep(0.05)
        assert "1410 MHz" in client.actuator.status().error
        assert machine.locked_mhz(0) == 1410


@pytest.mark.parametrize("reset_ms", [60, 150])
def test_slow_resets_on_eight_gpus_whose_worker_is_killed(reset_ms, make_machine, tmp_path):
    machine = make_machine(8, D_RESET_US=reset_ms * 1000)
    with Daemon(tmp_path, machine) as daemon:
        clients = [daemon.client(device, lease_s=1.0) for device in range(8)]
        assert all(client.reach(MHZ) for client in clients)
        os.kill(daemon.worker(), signal.SIGKILL)
        killed_s = time.monotonic()
        assert machine.wait(lambda: not machine.any_locked(), 4.0)
        assert max(map(machine.unlocked_at_s, range(8))) < killed_s + 0.5 + STARVED_S
        for client in clients:
            client.actuator.close()
        assert "abandoned" not in daemon.log.read_text()


@pytest.mark.parametrize("call", ["F_RESET", "F_CLOCK", "F_HANDLE"])
def test_a_hang_during_shutdown_keeps_its_mark_and_the_next_start_restores(call, machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client(0, 1)
    assert client.reach(MHZ)
    machine.fault(0, call, "K_HANG")
    os.kill(daemon.holders()[0], signal.SIGKILL)
    began_s = time.monotonic()
    status = daemon.stop()
    assert time.monotonic() < began_s + 9.0  # within TimeoutStopSec
    assert status in {0, 1}
    assert not machine.locked_mhz(1)
    if machine.locked_mhz(0) or status:  # what is in doubt is marked
        assert list(daemon.journal.glob("*.locked"))
    client.actuator.close()
    machine.clear_faults()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine):
        assert machine.wait(lambda: not machine.any_locked(), 1.0)


def test_a_lost_gpu_is_refused_with_the_reason_and_others_are_lent(machine, daemon):
    machine.set(0, "D_LOST", 1)
    with pytest.raises(LeaseRefusedError, match=r"fell off the bus|being restored|does not exist"):
        daemon.client(0, patience_s=0.0)
    with daemon.client(1) as client:
        assert client.reach(MHZ)


def _state(daemon, device):
    gpus = daemon_status(daemon.socket)["gpus"]
    return next((gpu["state"] for gpu in gpus if gpu["uuid"].endswith(f"{device:012d}")), "")
