"""Several things at once: processes of two kinds, every GPU, and a restart amid it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.actuation.daemons import Daemon
from tests.actuation.driver import uuid_of
from voltana_actuatord.daemon.admission import Admission
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.errors import ActuatorError

MHZ = 1005.0
GPUS = 4
WITHIN_S = 0.5 + 0.5
"""The lease, and half a second."""


def strike(daemon, blows):
    """Send every signal to those that it is for, in order."""
    for who, number in blows:
        pids = {
            "parent": [daemon.process.pid],
            "worker": [daemon.worker()],
            "GPU's process": daemon.holders()[:1],
            "GPUs' processes": daemon.holders(),
        }[who]
        for pid in pids:
            os.kill(pid, number)


@pytest.mark.parametrize(
    "blows",
    [
        (("GPUs' processes", signal.SIGSTOP), ("worker", signal.SIGKILL)),
        (("GPUs' processes", signal.SIGSTOP), ("worker", signal.SIGSTOP)),
        (("worker", signal.SIGSTOP), ("GPU's process", signal.SIGKILL)),
        (("GPUs' processes", signal.SIGKILL), ("worker", signal.SIGKILL)),
        (("parent", signal.SIGSTOP), ("worker", signal.SIGKILL)),
    ],
    ids=str,
)
def test_two_blows_at_once_leave_nothing_locked(blows, make_machine, tmp_path):
    machine = make_machine(GPUS)
    with Daemon(tmp_path, machine) as daemon:
        clients = [daemon.client(device, lease_s=0.5) for device in range(GPUS)]
        assert all(client.reach(MHZ) for client in clients)
        struck_s = time.monotonic()
        strike(daemon, blows)
        assert machine.wait(lambda: not machine.any_locked(), 5.0)
        assert max(map(machine.unlocked_at_s, range(GPUS))) < struck_s + WITHIN_S
        for client in clients:
            client.actuator.close()


def test_a_restart_while_every_gpu_is_gone_waits_for_them(make_machine, tmp_path):
    machine = make_machine(GPUS)
    with Daemon(tmp_path, machine) as daemon:
        clients = [daemon.client(device) for device in range(GPUS)]
        assert all(client.reach(MHZ) for client in clients)
        for device in range(GPUS):
            machine.set(device, "D_GONE", 1)
        os.killpg(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait()
        for client in clients:
            client.actuator.close()
    (tmp_path / "notify.sock").unlink()
    with Daemon(tmp_path, machine) as daemon:
        time.sleep(0.5)
        machine.clear_faults()
        back_s = time.monotonic()
        assert machine.wait(lambda: not machine.any_locked(), 5.0)
        assert max(map(machine.unlocked_at_s, range(GPUS))) < back_s + 0.5
        with daemon.client(0) as again:
            assert again.reach(MHZ)


def test_a_daemon_without_a_driver_and_without_marks_ends_and_says_so(machine, tmp_path):
    machine.header("H_DRIVER_LOADED", 0)
    daemon = Daemon(tmp_path, machine)
    assert daemon.process.wait(10) == 1
    assert "modprobe nvidia" in daemon.log.read_text()
    daemon.stop()


class Place:
    """A connection, as `Admission` sees it."""

    def __init__(self, uid, *, proved=False):
        self.peer = type("Peer", (), {"uid": uid})
        self.heard_s = 0.0
        self.proved = proved


def test_asking_for_a_lease_again_and_again_keeps_no_place():
    admission = Admission(8, 30.0, own_uid=0)
    held = [Place(1), *(Place(1, proved=True) for _ in range(3)), *(Place(2) for _ in range(4))]
    place, victim = admission.must_yield(3, held, lambda one: one.proved)
    assert place
    assert victim is not None
    assert not victim.proved


@pytest.mark.parametrize("lease_s", [5e-324, 1e-9, 1e-3, 0.05])
def test_a_lease_too_short_to_live_costs_nothing_but_itself(lease_s, machine, daemon):
    worker = daemon.worker()
    try:
        with daemon.client(0, lease_s=lease_s, patience_s=0.0) as client:
            for _ in range(20):
                client.set(MHZ)
                time.sleep(0.002)
    except ActuatorError:
        pass
    assert machine.wait(lambda: not machine.any_locked(), 1.0)
    with daemon.client(0) as again:
        assert again.reach(MHZ)
    assert daemon.worker() == worker


def test_more_marks_than_places_are_all_restored_though_most_gpus_are_missing(machine, tmp_path):
    journal = Journal(tmp_path / "state" / "journal")
    for number in range(90):
        journal.mark(f"GPU-00000000-0000-0000-0000-{number:012d}", had_setting=False)
    journal.mark(uuid_of(1), had_setting=False, clock_mhz=MHZ)  # the last by name
    machine.lock_from_outside(1, int(MHZ))
    with Daemon(tmp_path, machine) as daemon:
        assert machine.wait(lambda: not machine.any_locked(), 20.0)
        with daemon.client(0) as client:
            assert client.reach(MHZ)
    assert uuid_of(1) not in journal.marked()
    assert len(journal.marked()) == 90  # these were not seen to be restored
