"""What careless operators and starved hosts do to the daemon: signals, descriptors, baselines."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.actuation.daemons import DAEMON, Daemon
from tests.actuation.driver import uuid_of
from tests.attack.clock_honesty import Attacker, HonestLoop, assert_stands

MHZ = 1005.0
EVERYTHING = f"\n[[allow]]\nusers = [{os.geteuid()}]\n"
NAMES = ("HUP", "INT", "QUIT", "ABRT", "SEGV", "ALRM", "TERM", "USR1", "TSTP", "PROF", "RTMIN")


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_to_the_whole_group_leaves_nothing_locked(name, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, daemon.client(0, lease_s=1.0) as client:
        assert client.reach(MHZ)
        os.killpg(daemon.process.pid, signal.Signals[f"SIG{name}"])  # as a closed terminal does
        assert machine.wait(lambda: not machine.any_locked(), 1.6)


def test_descriptors_that_are_closed_at_the_start_are_taken_by_nothing_else(machine, tmp_path):
    daemon = Daemon(tmp_path, machine, start=False)
    program = f"exec {sys.executable} -m {DAEMON} --config {daemon.config} <&- >&- 2>&-"
    daemon.process = subprocess.Popen(
        ["sh", "-c", program], env=machine.environment(), start_new_session=True
    )
    with daemon, daemon.client(0) as client:
        assert client.reach(MHZ)
        client.actuator.close()
        assert machine.wait(lambda: not machine.any_locked())
        os.kill(daemon.worker(), signal.SIGKILL)
        with daemon.client(0) as again:
            assert again.reach(MHZ)


def test_a_host_without_descriptors_costs_no_clock_and_passes(machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, daemon.client(0) as client:
        assert client.reach(MHZ)
        parent = daemon.process.pid
        before = resource.prlimit(parent, resource.RLIMIT_NOFILE)
        resource.prlimit(parent, resource.RLIMIT_NOFILE, (5, before[1]))
        os.kill(daemon.worker(), signal.SIGKILL)
        assert machine.wait(lambda: not machine.any_locked(), 1.0)
        time.sleep(0.5)
        assert daemon.process.poll() is None, daemon.log.read_text()
        resource.prlimit(parent, resource.RLIMIT_NOFILE, before)
        with daemon.client(0) as again:
            assert again.reach(MHZ)


def test_a_baseline_that_the_board_does_not_know_locks_nobody_out(machine, tmp_path):
    head = f'[[baseline]]\ngpus = ["{uuid_of(0)}"]\nclock_mhz = 1000.0'
    with Daemon(tmp_path, machine, allow=f"{head}{EVERYTHING}") as daemon:
        for _ in range(2):
            with daemon.client(0) as client:
                assert client.reach(MHZ)
            assert machine.wait(lambda: not machine.any_locked(), 1.0)
        assert "1000" in daemon.log.read_text()


def test_a_terminal_that_closes_does_not_end_what_nohup_started(machine, tmp_path):
    with Daemon(tmp_path, machine, nohup=True) as daemon, daemon.client(0) as client:
        os.killpg(daemon.process.pid, signal.SIGHUP)
        assert client.reach(MHZ)
        assert daemon.process.poll() is None


@pytest.mark.parametrize("after_mhz", [0, 900])
def test_a_baseline_that_the_configuration_has_no_more_is_not_put_back(
    after_mhz, machine, tmp_path
):
    head = f'[[baseline]]\ngpus = ["{uuid_of(0)}"]\nclock_mhz = 975.0\n'
    before = Daemon(tmp_path, machine, allow=f"{head}{EVERYTHING}")
    with before as daemon, daemon.client(0) as client:
        assert client.reach(MHZ)
        os.killpg(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()
    (tmp_path / "notify.sock").unlink()
    new = head.replace("975.0", f"{after_mhz}.0") if after_mhz else ""
    with Daemon(tmp_path, machine, allow=f"{new}{EVERYTHING}") as daemon:
        with daemon.client(0) as client:
            assert client.reach(MHZ)
        assert machine.wait(lambda: machine.locked_mhz(0) == after_mhz, 1.0)


@pytest.mark.parametrize("seconds", [2, 4])
def test_a_driver_that_takes_seconds_to_open_restores_and_lends(seconds, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        with daemon.client(0) as client:
            assert client.reach(MHZ)
            machine.fault(0, "F_HANDLE", "K_HANG", 500 * seconds)  # twice an opening
            os.kill(daemon.holders()[0], signal.SIGKILL)
            assert machine.wait(lambda: not machine.any_locked(), 3.0 * seconds + 2.0), (
                daemon.log.read_text()
            )
        with daemon.client(0, patience_s=30.0) as again:
            assert again.reach(MHZ)


def test_names_that_lead_nowhere_cost_others_nothing(machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon, HonestLoop(daemon) as honest:
        numbers = itertools.count()

        def lend():
            with daemon.client(0, patience_s=0.5) as client:
                assert client.reach(MHZ, 2.0)

        lend()
        attacker = Attacker(lambda: _ask_for_nothing(daemon, next(numbers)))
        assert_stands(honest, attacker, meanwhile=lend)


def _ask_for_nothing(daemon, number):
    with daemon.connect() as sock:
        sock.settimeout(0.05)
        names = [f"GPU-ffff0000-0000-0000-{number:04d}-{i:012d}" for i in range(64)]
        body = {"domain": "x", "devices": names, "lease_s": 1.0}
        sock.send(b"VA\x01\x01" + json.dumps(body).encode())
        sock.recv(16_384)
