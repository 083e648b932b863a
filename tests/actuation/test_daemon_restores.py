"""Clocks come back: daemons, workers and clients that are stopped, killed, hung or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.actuation.client_steps import MHZ, locking_daemon, stepping
from tests.actuation.daemons import DAEMON, Daemon
from tests.actuation.driver import uuid_of
from voltana.values import Health
from voltana_actuatord.faults import LeaseRefusedError


def test_a_killed_client_gives_its_clock_back(machine, daemon):
    code = f"""
import time
from voltana.actuators import ActuatorProcess
from voltana.values import Command, Domain
domain = Domain(name="d", devices={tuple(map(uuid_of, (0, 1)))})
a = ActuatorProcess(domain, socket_path={str(daemon.socket)!r})
for i in range(10**6):
    a.apply(Command(domain=domain, clock_mhz=1005.0, sequence=i))
    time.sleep(0.02)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    assert machine.wait(lambda: machine.locked_mhz(1) == MHZ)
    killed_s = time.monotonic()
    process.kill()
    process.wait()
    assert machine.wait(lambda: not machine.any_locked())
    assert machine.unlocked_at_s(1) - killed_s < 1.5  # well within the lease


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop_restores_and_leaves_nothing(number, machine, tmp_path):
    daemon, client = locking_daemon(tmp_path, machine)
    worker = daemon.worker()
    assert list(daemon.journal.glob("*.locked"))
    daemon.process.send_signal(number)
    assert daemon.process.wait(10) == 0
    assert not machine.any_locked()
    assert not list(daemon.journal.glob("*.locked"))
    assert not daemon.socket.exists()
    assert not Path(f"/proc/{worker}").exists()
    assert machine.wait(lambda: client.actuator.status().health is Health.LOST)
    client.actuator.close()
    daemon.stop()


@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_stop_while_it_starts_is_orderly_too(delay_s, machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    started = machine.wait(lambda: _blocks_sigterm(daemon.process.pid))
    time.sleep(delay_s)
    daemon.process.terminate()
    assert daemon.process.wait(10) == 0
    assert started
    assert not daemon.socket.exists()
    daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_the_parent_replaces_a_worker_that_is_gone_or_silent(number, machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        worker = daemon.worker()
        hit_s = time.monotonic()
        os.kill(worker, number)
        assert machine.wait(lambda: not machine.any_locked())
        assert max(map(machine.unlocked_at_s, (0, 1))) - hit_s < 4.0
        assert machine.wait(lambda: daemon.worker() not in (0, worker))
        assert machine.wait(lambda: stepping(client, MHZ))


def test_a_driver_call_that_never_returns_is_killed(machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        machine.fault(0, "F_SET", "K_HANG", 0, count=1)
        hit_s = time.monotonic()
        client.set(1410.0)
        assert machine.wait(lambda: not machine.any_locked())
        assert max(map(machine.unlocked_at_s, (0, 1))) - hit_s < 4.0
        assert machine.wait(lambda: stepping(client, 1200.0))


def test_a_reset_that_hangs_is_tried_until_it_works(machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        machine.fault(0, "F_RESET", "K_HANG")
        client.actuator.close()
        assert machine.wait(lambda: not machine.locked_mhz(1))  # the healthy one is not kept
        assert machine.locked_mhz(0) == MHZ
        time.sleep(2.5)
        with pytest.raises(LeaseRefusedError, match="restored"):
            daemon.client(0, patience_s=0.0)
        with daemon.client(1) as other:  # and can be used meanwhile
            assert other.reach(MHZ)
            machine.clear_faults()
            assert machine.wait(lambda: not machine.locked_mhz(0))
            assert machine.locked_mhz(1) == MHZ
    with daemon.client(0) as again:
        assert again.reach(MHZ)


def test_a_daemon_killed_whole_restores_before_anything_else(machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client(0, 1)
    assert client.reach(MHZ)
    whole = [daemon.worker(), *daemon.holders()]
    for pid in whole:  # none of them may restore before the others are gone
        os.kill(pid, signal.SIGSTOP)
    daemon.process.kill()
    daemon.process.wait()
    for pid in whole:
        with suppress(ProcessLookupError):  # gone with its parent already
            os.kill(pid, signal.SIGKILL)
    assert machine.any_locked()  # nobody is left to do it: init has to start a new daemon
    daemon.stop()
    again = Daemon(tmp_path, machine) if (tmp_path / "notify.sock").unlink() is None else None
    assert again is not None
    with again:
        assert not machine.any_locked()
        assert machine.unlocked_at_s() - again.starts[0] < 3.0
    client.actuator.close()


def test_a_gpu_that_is_lost_while_the_daemon_starts_is_tried_again_soon(machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client(0)
    assert client.reach(MHZ)
    machine.set(0, "D_LOST", 1)
    worker = daemon.worker()
    daemon.process.kill()
    daemon.process.wait()
    os.kill(worker, signal.SIGKILL)
    daemon.stop()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine) as again:  # answers others meanwhile
        assert machine.wait(lambda: "not at default clocks yet" in again.log.read_text())
        machine.set(0, "D_LOST", 0)
        found_s = time.monotonic()
        assert machine.wait(lambda: not machine.any_locked())
        assert machine.unlocked_at_s() - found_s < 1.5
    client.actuator.close()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("nonsense = 1", "unknown key 'nonsense'"),
        ("driver = 'none_such'", "driver = 'none_such' is not allowed"),
    ],
)
def test_clocks_come_back_even_if_the_configuration_is_broken_meanwhile(
    broken, said, machine, tmp_path
):
    daemon, client = locking_daemon(tmp_path, machine)
    os.killpg(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    daemon.config.write_text(f"{broken}\n{daemon.config.read_text()}")
    command = [
        sys.executable,
        "-m",
        DAEMON,
        "--config",
        str(daemon.config),
    ]
    done = subprocess.run(
        command, env=machine.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not machine.any_locked()
    daemon.stop()
    client.actuator.close()


def test_a_new_daemon_ends_a_worker_that_was_left_behind(machine, tmp_path):
    daemon, client = locking_daemon(tmp_path, machine)
    worker = daemon.worker()
    os.kill(worker, signal.SIGSTOP)
    daemon.process.kill()
    daemon.process.wait()
    daemon.stop()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine):
        assert not machine.any_locked()
        assert machine.wait(lambda: _gone(worker))
    client.actuator.close()


def test_a_worker_whose_parent_dies_restores_and_ends(machine, tmp_path):
    daemon, client = locking_daemon(tmp_path, machine)
    worker = daemon.worker()
    daemon.process.kill()
    assert machine.wait(lambda: not machine.any_locked())
    assert machine.wait(lambda: _gone(worker))
    daemon.stop()
    client.actuator.close()


def test_the_restore_command_gives_marked_clocks_back(machine, tmp_path):
    daemon, client = locking_daemon(tmp_path, machine)
    os.killpg(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    assert machine.any_locked()
    command = [sys.executable, "-m", DAEMON, "--restore"]
    done = subprocess.run(
        [*command, "--config", str(daemon.config)], env=machine.environment(), check=False
    )
    assert done.returncode == 0
    assert not machine.any_locked()
    daemon.stop()
    client.actuator.close()


def _blocks_sigterm(pid):
    """Whether a process has come as far as to hold SIGTERM back, or to handle it."""
    try:
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
    except OSError:
        return True
    held = int(fields["SigBlk"], 16) | int(fields["SigCgt"], 16)
    return bool(held >> (signal.SIGTERM - 1) & 1)


def _gone(pid):
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
