"""A disk that answers nobody for a while, under the daemon's state folder: clocks come back anyway.

Calls of the file system that lead there wait in every process of the daemon that makes them; those
to the socket's folder and the claims, which lie in memory, do not.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.actuation.daemons import Daemon
from tests.attack.test_clocks_restoring import BOUND_S, assert_back, hold, let_go

if TYPE_CHECKING:
    from pathlib import Path

MHZ = 1005.0

STALLING = """
import io, os, time
STATE, FLAG = os.environ["STALLED_STATE"], os.environ["STALLED_FLAG"]
_stat, _handles = os.stat, set()

def waits(path):
    while str(path).startswith(STATE):
        try:
            _stat(FLAG)
        except OSError:
            return
        time.sleep(0.005)

def by_path(call):
    def called(path, *rest, **more):
        if isinstance(path, (str, os.PathLike)):
            waits(os.fspath(path))
        elif path in _handles:
            waits(STATE)
        found = call(path, *rest, **more)
        if call is _open and str(path).startswith(STATE):
            _handles.add(found)
        return found
    return called

_open = os.open
for name in (
    "open", "stat", "lstat", "mkdir", "unlink", "rename", "replace", "listdir", "scandir", "fsync",
    "write", "pwrite", "readlink", "statvfs", "getxattr",
):
    setattr(os, name, by_path(getattr(os, name)))
io.open = by_path(io.open)
"""


class Disk:
    """The disk of a daemon's state folder.

    Args:
        folder: For what makes it stall; the state folder is the daemon's in there.
    """

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "stalled"
        code = folder / "stalling"
        code.mkdir()
        (code / "sitecustomize.py").write_text(STALLING)
        self.environment = {
            "PYTHONPATH": os.pathsep.join([str(code), *filter(None, [os.getenv("PYTHONPATH")])]),
            "STALLED_STATE": str(folder / "state"),
            "STALLED_FLAG": str(self._flag),
        }

    def stall(self) -> None:
        """It answers nobody."""
        self._flag.touch()

    def answer(self) -> None:
        """It answers again."""
        self._flag.unlink()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def strike(daemon: Daemon, blow: str) -> None:
    """Hit who is named: in order, where there are several."""
    for who, what in (part.split(" ") for part in blow.split(", ")):
        pids = {"worker": [daemon.worker()], "holders": daemon.holders()}[who]
        for pid in pids:
            os.kill(pid, {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[what])


@pytest.mark.parametrize(
    "blow",
    [
        "worker killed",
        "worker stopped",
        "holders killed",
        "holders stopped",
        "worker killed, holders killed",
        "holders stopped, worker killed",
        "worker stopped, holders killed",
    ],
)
def test_a_disk_that_stalls_keeps_no_clock(blow, disk, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0, 1)
        disk.stall()
        hit_s = time.monotonic()
        strike(daemon, blow)
        assert_back(machine, hit_s)
        time.sleep(0.3)
        if "worker" in blow:  # who has to do with the disk on the way to a lease waits for it
            daemon.wait_ready()
        disk.answer()
        client.actuator.close()
        with daemon.client(0, 1) as again:
            assert again.reach(MHZ)
        assert machine.wait(lambda: not list(daemon.journal.glob("*.locked")))


@pytest.mark.parametrize("blow", ["worker killed", "holders killed", "worker stopped"])
def test_blows_in_a_row_under_a_stalled_disk_keep_no_clock(blow, disk, machine, tmp_path):
    """The second comes when the daemon has dealt with the first: whoever waits is hit as well."""
    with Daemon(tmp_path, machine) as daemon:
        first, second = hold(daemon, 0), hold(daemon, 1)
        disk.stall()
        hit_s = time.monotonic()
        os.kill(daemon.holders()[0], signal.SIGKILL)
        time.sleep(0.1)
        strike(daemon, blow)
        assert_back(machine, hit_s + 0.1)
        disk.answer()
        for client in (first, second):
            client.actuator.close()


def test_a_client_that_dies_under_a_stalled_disk_keeps_no_clock(disk, machine, tmp_path):
    with Daemon(tmp_path, machine) as daemon:
        client = hold(daemon, 0)
        disk.stall()
        client.set(900.0)
        hit_s = time.monotonic()
        let_go(client)
        assert_back(machine, hit_s)
        disk.answer()


def test_an_honest_lease_outlasts_a_short_stall_and_locks_nothing_unmarked(disk, machine, tmp_path):
    """Beside: who steps on has his clock, and who wants a first one has it when its mark lies."""
    with Daemon(tmp_path, machine) as daemon, daemon.client(0) as client:
        assert client.reach(MHZ)
        disk.stall()
        for step in range(8):
            client.set(MHZ + 15.0 * (step % 2))
            time.sleep(0.05)
        disk.answer()
        assert client.reach(1200.0)
        assert daemon.journal.joinpath(f"{client.domain.devices[0]}.locked").exists()


def test_a_daemon_that_is_ended_under_a_stalled_disk_gives_clocks_back(disk, machine, tmp_path):
    daemon = Daemon(tmp_path, machine)
    daemon.wait_ready()
    client = hold(daemon, 0, 1)
    disk.stall()
    hit_s = time.monotonic()
    daemon.process.terminate()
    assert_back(machine, hit_s, within_s=BOUND_S)
    disk.answer()
    assert daemon.stop() == 0
    client.actuator.close()
