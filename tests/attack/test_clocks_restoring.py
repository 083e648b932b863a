"""Attacks that would leave a clock locked while somebody is there to restore it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time

import pytest

from tests.actuation.daemons import Daemon
from tests.attack.clock_honesty import HonestLoop, assert_unharmed

MHZ = 1005.0
LEASE_S = 0.5
BOUND_S = LEASE_S + 0.5
STARVED_S = 1.0
"""What a test machine with more work than cores may add; `make chaos` holds the bound itself."""

ONE_GPU = f"[[allow]]\nusers = [{os.geteuid()}]\n"


def hold(daemon, *devices):
    client = daemon.client(*devices, lease_s=LEASE_S)
    assert client.reach(MHZ)
    return client


def let_go(client):
    """The client is killed: its socket closes without a word."""
    client.actuator._sock.close()
    client.actuator._sock = None


def assert_back(machine, since_s, *, within_s=BOUND_S):
    assert machine.wait(lambda: not machine.any_locked(), within_s + STARVED_S + 2.0)
    backs = [machine.unlocked_at_s(device) for device in range(machine.devices)]
    assert max(backs) - since_s < within_s + STARVED_S


@pytest.fixture
def full_pipe():
    """A pipe that is full, and whose reader stands still."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    fcntl.fcntl(writer, fcntl.F_SETFL, 0)
    yield writer
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("victim", ["client", "worker", "holder", "parent"])
def test_a_log_reader_that_stands_still_keeps_no_clock_locked(victim, machine, tmp_path, full_pipe):
    with Daemon(tmp_path, machine, stderr=full_pipe, init=victim == "parent") as daemon:
        for _ in range(80):  # something to say, over and over
            with daemon.connect() as sock:
                sock.send(b"nonsense")
                assert sock.recv(16_384)
        client = hold(daemon, 0)
        hit_s = time.monotonic()
        if victim == "client":
            let_go(client)
        else:
            pid = {"worker": daemon.worker, "parent": lambda: daemon.process.pid}.get(
                victim, lambda: daemon.holders()[0]
            )()
            os.kill(pid, signal.SIGKILL)
        assert_back(machine, hit_s)
        assert os.get_blocking(full_pipe)  # others who write there are not changed
        daemon.wait_ready()
        client.actuator.close()


@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize("operator", [False, True])
def test_resets_that_the_driver_ignores_do_not_count(count, operator, machine, tmp_path):
    head = 'foreign_clocks = "allow"' if operator else ""
    if operator:
        machine.lock_from_outside(0, 1200)
    with Daemon(tmp_path, machine, head=head) as daemon, HonestLoop(daemon) as honest:
        quiet_s = honest.times_s(0.5)
        client = hold(daemon, 0)
        machine.fault(0, "F_RESET", "K_SILENT", 0, count)
        let_go(client)
        client.actuator.close()
        attacked_s = honest.times_s(1.0)
        assert machine.wait(lambda: not machine.locked_mhz(0))
        assert_unharmed(honest, quiet_s, attacked_s)


@pytest.mark.parametrize("count", [2, 7])
def test_ignored_resets_of_a_lock_at_the_fastest_clock_do_not_count(count, machine, tmp_path):
    """That clock runs without a lock as well: the reason that the driver gives tells."""
    with Daemon(tmp_path, machine) as daemon:
        client = daemon.client(0, lease_s=0.5)
        fastest_mhz = client.actuator.table()[-1]
        assert client.reach(fastest_mhz)
        machine.fault(0, "F_RESET", "K_SILENT", 0, count)
        client.actuator.close()
        assert machine.wait(lambda: not machine.locked_mhz(0))
        with daemon.client(0) as again:  # nobody is taken for another tool
            assert again.reach(MHZ)


def test_resets_that_are_ignored_for_long_are_doubted_retried_and_refuse_no_lease(
    machine, tmp_path
):
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0)
        machine.fault(0, "F_RESET", "K_SILENT")
        client.actuator.close()
        doubtful = [{"doubtful"}, {False}]
        assert machine.wait(lambda: _seen(daemon) == doubtful)
        assert list(daemon.journal.glob("*.locked"))
        with daemon.client(0, patience_s=2.0) as again:  # not refused for good
            assert again.reach(1200.0)
        assert machine.wait(lambda: _seen(daemon) == doubtful)
        machine.clear_faults()
        assert_back(machine, time.monotonic(), within_s=0.5)
        assert machine.wait(lambda: not list(daemon.journal.glob("*.locked")))
        assert machine.wait(lambda: _seen(daemon) == [{"default"}, {True}])


def test_an_idle_gpu_whose_reset_was_ignored_is_caught_when_it_runs(make_machine, tmp_path):
    machine = make_machine(D_IDLE_HIDES=1)
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0)
        machine.fault(0, "F_RESET", "K_SILENT")
        machine.set(0, "D_BUSY", 0)
        client.actuator.close()
        assert machine.wait(lambda: _seen(daemon)[0] == {"watched"})
        machine.clear_faults()
        assert machine.locked_mhz(0) == MHZ  # nothing can show it yet
        machine.set(0, "D_BUSY", 1)
        assert_back(machine, time.monotonic(), within_s=0.5)


@pytest.mark.parametrize("victim", ["worker", "holder", "everybody"])
def test_a_gpu_that_leaves_the_list_comes_back_unlocked(victim, machine, tmp_path):
    daemon = Daemon(tmp_path, machine, init=True)
    with daemon, HonestLoop(daemon) as honest:
        client = hold(daemon, 0)
        machine.set(0, "D_GONE", 1)
        hit = {"worker": [daemon.worker()], "holder": daemon.holders()}
        for pid in hit.get(victim, [daemon.worker(), *daemon.holders(), daemon.process.pid]):
            os.kill(pid, signal.SIGKILL)
        time.sleep(1.0)
        assert machine.locked_mhz(0)
        machine.set(0, "D_GONE", 0)
        assert machine.wait(lambda: not machine.locked_mhz(0), 5.0 + STARVED_S)
        client.actuator.close()
        assert honest.times_s(0.5)
    assert not list(daemon.journal.glob("*.locked"))


@pytest.mark.parametrize("removed", ["marks", "state folder"])
@pytest.mark.parametrize("victim", ["worker", "holder", "both", "client"])
def test_marks_that_somebody_removes_are_not_needed(removed, victim, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0, 1)
        if removed == "marks":
            for mark in daemon.journal.iterdir():
                mark.unlink()
        else:
            shutil.rmtree(tmp_path / "state")
        hit_s = time.monotonic()
        both = [*daemon.holders(), daemon.worker()]
        victims = {"worker": both[-1:], "holder": both[:-1], "both": both, "client": []}[victim]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if not victims:
            let_go(client)
        assert_back(machine, hit_s)
        client.actuator.close()
        with daemon.client(0) as again:
            assert again.reach(MHZ)


def test_removed_marks_are_written_again_for_a_restart(machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = hold(daemon, 0)
    shutil.rmtree(tmp_path / "state")

    def marked_again():
        client.set(MHZ)
        return list(daemon.journal.glob("*.locked"))

    assert machine.wait(marked_again)
    os.killpg(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    assert machine.any_locked()
    client.actuator.close()
    daemon.stop()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine):
        assert not machine.any_locked()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_gpus_process_that_is_hit_costs_its_own_lease_only(number, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0)
        (mine,) = daemon.holders()
        with HonestLoop(daemon) as honest:
            quiet_s = honest.times_s(0.5)
            hit_s = time.monotonic()
            os.kill(mine, number)
            assert machine.wait(lambda: not machine.locked_mhz(0))
            assert machine.unlocked_at_s(0) - hit_s < BOUND_S + STARVED_S
            assert_unharmed(honest, quiet_s, honest.times_s(0.5))
        client.actuator.close()
        with daemon.client(0) as again:
            assert again.reach(MHZ)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_state_folder_that_cannot_be_written_locks_nothing(read_only, machine, tmp_path):
    """Stands for a full disk as well: root writes through permissions, so the folder is a file."""
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0)
        shutil.rmtree(daemon.journal)
        daemon.journal.write_text("" if read_only else "x")
        hit_s = time.monotonic()
        let_go(client)
        assert_back(machine, hit_s)
        client.actuator.close()
        with daemon.client(1) as other:
            other.set(MHZ)
            assert machine.wait(lambda: other.actuator.status().error)
            assert not machine.any_locked()
        daemon.journal.unlink()
        with daemon.client(1, patience_s=5.0) as other:
            assert other.reach(MHZ)


def _seen(daemon):
    """States and whether all is at its defaults, of the GPUs that the daemon lists."""
    from voltana_actuatord.console import daemon_status

    gpus = daemon_status(daemon.socket)["gpus"]
    return [{gpu["state"] for gpu in gpus}, {gpu["at_default"] for gpu in gpus}]
