"""The daemon as a whole, with the real binding and the fake driver: what a client gets."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.actuation.client_steps import MHZ, settled, stepping
from tests.actuation.daemons import Daemon, run_to_end
from tests.actuation.driver import uuid_of
from voltana.errors import ActuatorError, ConfigError
from voltana.values import Command, Domain, Health
from voltana_actuatord.client import ActuatorProcess
from voltana_actuatord.faults import DaemonUnavailableError, LeaseRefusedError
from voltana_actuatord.guard import CommandGuard


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
