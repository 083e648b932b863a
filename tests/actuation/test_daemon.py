"""The daemon as a whole: real processes, the real binding, the fake driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.actuation.daemons import DAEMON, Daemon, run_to_end
from tests.actuation.driver import uuid_of
from voltana.errors import ActuatorError, ConfigError
from voltana.values import Command, Domain, Health
from voltana_actuatord.client import ActuatorProcess
from voltana_actuatord.faults import DaemonUnavailableError, LeaseRefusedError
from voltana_actuatord.guard import CommandGuard

MHZ = 1005.0


def stepping(client, clock_mhz):
    """Take a control step; whether the clock has come about."""
    client.set(clock_mhz)
    time.sleep(0.01)
    status = client.actuator.status()
    return status.clock_mhz == clock_mhz and status.health is Health.OK


def settled(client, clock_mhz):
    """Whether the device runs at the clock and the client has been told."""
    status = client.actuator.status()
    return status.clock_mhz == clock_mhz and status.sequence == client.steps - 1


def test_sets_a_clock_and_tells_what_was_achieved(machine, daemon):
    with daemon.client() as client:
        assert client.reach(MHZ)
        assert machine.locked_mhz() == MHZ
        status = client.actuator.status()
        assert (status.health, status.target_mhz, status.error) == (Health.OK, MHZ, "")
        assert len(client.actuator.table()) == 81
    assert machine.wait(lambda: not machine.any_locked())


def test_devices_of_a_domain_change_as_one_and_have_one_owner(machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        assert (machine.locked_mhz(0), machine.locked_mhz(1)) == (MHZ, MHZ)
        with pytest.raises(LeaseRefusedError, match="One owner a clock domain"):
            daemon.client(1, patience_s=0.1)
    assert machine.wait(lambda: not machine.any_locked())
    with daemon.client(1) as other:
        assert other.reach(MHZ)


def test_the_latest_command_wins_and_none_is_queued(make_machine, tmp_path):
    machine = make_machine(D_CALL_US=30_000)
    with Daemon(tmp_path, machine) as daemon, daemon.client() as client:
        table = client.actuator.table()
        for clock_mhz in (*table, *table):
            client.set(clock_mhz)
        assert machine.wait(lambda: settled(client, 1410.0))
        assert machine.locked_mhz() == 1410
        assert len(machine.set_calls()) < 30


def test_a_client_that_stops_stepping_loses_its_clock_within_the_lease(machine, daemon):
    with daemon.client(lease_s=0.5) as client:
        client.set(MHZ)
        assert machine.wait(lambda: machine.locked_mhz() == MHZ)
        stepped_s = time.monotonic()
        assert machine.wait(lambda: not machine.any_locked())
        assert 0.4 <= machine.unlocked_at_s() - stepped_s <= 0.5 + 1.5
        assert machine.wait(lambda: client.actuator.status().health is Health.DEGRADED)
        assert "no completed control step" in client.actuator.status().error
        assert machine.wait(lambda: stepping(client, MHZ))  # steps take the lease up again


def test_steps_at_the_same_clock_renew_without_touching_the_driver(machine, daemon):
    with daemon.client(lease_s=0.6) as client:
        for _ in range(12):
            client.set(MHZ)
            time.sleep(0.1)
        assert machine.locked_mhz() == MHZ
        assert machine.get(0, "D_SET_CALLS") <= 2  # a loaded machine may miss one lease


def test_a_repeated_step_is_a_lie_and_costs_the_lease(machine, daemon):
    with daemon.client() as client:
        assert client.reach(MHZ)
        client.actuator._sock.send(b"VA\x01\x02" + bytes(8) + b"\0\0\0\0\0h\x8f@" * 2)
        assert machine.wait(lambda: not machine.any_locked())
        assert machine.wait(lambda: client.actuator.status().health is Health.LOST)
        assert "completed control step" in client.actuator.status().error


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
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
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
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
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
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
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
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
    worker = daemon.worker()
    daemon.process.kill()
    assert machine.wait(lambda: not machine.any_locked())
    assert machine.wait(lambda: _gone(worker))
    daemon.stop()
    client.actuator.close()


def test_the_restore_command_gives_marked_clocks_back(machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
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


@pytest.mark.parametrize("count", [1, 2])
def test_a_setting_that_fails_silently_is_found_and_set_again(count, machine, daemon):
    machine.fault(0, "F_SET", "K_SILENT", 0, count)
    with daemon.client() as client:
        assert client.reach(MHZ)


def test_a_board_that_never_obeys_is_left_at_its_defaults(machine, daemon):
    machine.fault(0, "F_SET", "K_SILENT")
    with daemon.client() as client:
        client.set(MHZ)
        assert machine.wait(lambda: "no event reason" in client.actuator.status().error)
        assert client.actuator.status().health is Health.DEGRADED
        assert not machine.any_locked()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_reset_that_fails_silently_is_sent_again(count, machine, daemon):
    with daemon.client() as client:
        assert client.reach(MHZ)
        machine.fault(0, "F_RESET", "K_SILENT", 0, count)
    assert machine.wait(lambda: not machine.any_locked())


@pytest.mark.parametrize("code", [3, 4, 15, 999])
def test_a_driver_error_reaches_the_client_and_takes_the_whole_domain_back(code, machine, daemon):
    with daemon.client(0, 1) as client:
        assert client.reach(MHZ)
        machine.fault(1, "F_SET", "K_CODE", code)
        client.set(1200.0)
        assert machine.wait(lambda: f"(NVML {code})" in client.actuator.status().error)
        assert client.actuator.status().health is Health.DEGRADED
        assert machine.wait(lambda: not machine.any_locked())


def test_a_lost_gpu_is_restored_when_it_is_back(machine, daemon):
    with daemon.client() as client:
        assert client.reach(MHZ)
        machine.set(0, "D_LOST", 1)
        client.set(1200.0)
        assert machine.wait(lambda: "fell off the bus" in client.actuator.status().error)
        machine.set(0, "D_LOST", 0)
        assert machine.wait(lambda: not machine.any_locked())


def test_a_lock_that_vanishes_is_set_again(machine, daemon):
    with daemon.client(lease_s=10.0) as client:
        assert client.reach(MHZ)
        machine.set(0, "D_LOCK", 0)  # somebody else ran `nvidia-smi -rgc`
        assert machine.wait(lambda: machine.locked_mhz() == MHZ)


def test_the_power_cap_explains_a_slower_clock(make_machine, tmp_path):
    machine = make_machine(D_CAP_MW=250_000)
    with Daemon(tmp_path, machine) as daemon, daemon.client() as client:
        client.set(1410.0)
        assert machine.wait(lambda: client.actuator.status().sequence == 0)
        status = client.actuator.status()
        assert status.clock_mhz < 1410.0
        assert (status.health, status.error) == (Health.OK, "power cap")


def test_mig_is_refused(make_machine, tmp_path):
    machine = make_machine(D_MIG=1)
    with Daemon(tmp_path, machine) as daemon:
        with pytest.raises(LeaseRefusedError, match="MIG"):
            daemon.client(patience_s=0.0)
        assert not machine.set_calls()


def test_without_a_daemon_the_client_says_so_and_finds_it_later(machine, tmp_path):
    domain = Domain(name="d", devices=(uuid_of(0),))
    with pytest.raises(DaemonUnavailableError, match="Start voltana-actuatord"):
        ActuatorProcess(domain, socket_path=tmp_path / "actuator.sock")
    client = ActuatorProcess(
        domain, socket_path=tmp_path / "actuator.sock", table_mhz=(MHZ, 1410.0)
    )
    client.apply(Command(domain=domain, clock_mhz=MHZ, sequence=0))
    status = client.status()
    assert status.health is Health.LOST
    assert "default clocks" in status.error
    with Daemon(tmp_path, machine):
        assert machine.wait(lambda: client.status().health is Health.OK)
        client.apply(Command(domain=domain, clock_mhz=MHZ, sequence=1))
        assert machine.wait(lambda: machine.locked_mhz() == MHZ)
    assert machine.wait(lambda: client.status().health is Health.LOST)
    client.close()
    with pytest.raises(ActuatorError, match="closed"):
        client.apply(Command(domain=domain, clock_mhz=MHZ, sequence=2))


def test_apply_does_not_wait_for_a_daemon_that_does_not_read(machine, daemon):
    with daemon.client() as client:
        assert client.reach(MHZ)
        worker = daemon.worker()
        os.kill(daemon.process.pid, signal.SIGSTOP)  # or it would replace the worker
        os.kill(worker, signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            for _ in range(2000):
                client.set(1410.0)
            assert time.monotonic() - started_s < 2.0
            assert machine.wait(lambda: client.actuator.status().health is Health.DEGRADED)
            assert "no acknowledgement" in client.actuator.status().error
            assert client.actuator._unsent is not None  # the latest step alone waits,
            assert machine.wait(lambda: client.actuator.status() and not client.actuator._unsent)
            assert time.monotonic() - started_s >= client.lease_s  # and for a lease at most
        finally:
            os.kill(worker, signal.SIGCONT)
            os.kill(daemon.process.pid, signal.SIGCONT)
        assert machine.wait(lambda: stepping(client, MHZ))


def test_clocks_outside_the_rule_never_reach_the_driver(machine, tmp_path):
    allow = f"[[allow]]\nusers = [{os.geteuid()}]\nmin_mhz = 900.0\nmax_mhz = 1200.0\n"
    with Daemon(tmp_path, machine, allow=allow) as daemon, daemon.client() as client:
        assert (min(client.actuator.table()), max(client.actuator.table())) == (900.0, 1200.0)
        with pytest.raises(ConfigError, match="supported clock of 900-1200 MHz"):
            client.set(1410.0)
        client.actuator._guard = CommandGuard((1410.0,))  # a client that does not check
        client.set(1410.0)
        assert machine.wait(lambda: client.actuator.status().health is Health.LOST)
        assert "not a supported and permitted clock" in client.actuator.status().error
        assert not machine.set_calls()


def test_starts_fast_and_small(machine, daemon):
    def resident_mb(pid):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    total_mb = resident_mb(daemon.process.pid) + resident_mb(daemon.worker())
    assert 5.0 < total_mb < 45.0


def test_two_daemons_do_not_share_a_state_folder(machine, daemon):
    done = run_to_end(machine, daemon.config)
    assert done.returncode == 2
    assert "another voltana-actuatord uses" in done.stderr
    with daemon.client() as client:
        assert client.reach(MHZ)


def test_without_a_driver_the_daemon_ends_and_says_why(machine, tmp_path):
    machine.header("H_DRIVER_LOADED", 0)
    daemon = Daemon(tmp_path, machine)
    assert daemon.process.wait(10) == 1
    assert "modprobe nvidia" in daemon.log.read_text()
    daemon.stop()


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
