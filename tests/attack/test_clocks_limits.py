"""A host that takes memory, descriptors or room for files away from a daemon that lends clocks."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.actuation.daemons import Daemon

MHZ = 1005.0
LEASE_S = 1.0
IN_TIME_S = LEASE_S + 0.5

LIMITS = {
    "memory": (resource.RLIMIT_AS, 1 << 20),
    "heap": (resource.RLIMIT_DATA, 1 << 12),
    "files": (resource.RLIMIT_NOFILE, 3),
    "room in files": (resource.RLIMIT_FSIZE, 0),
}
"""What may be taken away, and how little is left."""

ENDS = ("the client is killed", "the worker is killed", "the daemon is told to end")


def tree(pid):
    """A process and all that it has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in listed for each in tree(int(child)))]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("limit", LIMITS)
def test_what_a_host_takes_away_keeps_no_clock_locked(limit, end, machine, tmp_path):
    which, left = LIMITS[limit]
    with Daemon(tmp_path, machine, init=True) as daemon:
        with daemon.client(0, lease_s=LEASE_S) as client:
            assert client.reach(MHZ)
            for pid in tree(daemon.process.pid):
                hard = resource.prlimit(pid, which)[1]
                resource.prlimit(pid, which, (left, hard))
            if end == "the client is killed":
                client.actuator.close()
            elif end == "the worker is killed":
                os.kill(daemon.worker(), signal.SIGKILL)
            else:
                daemon.process.terminate()
            assert machine.wait(lambda: not machine.any_locked(), IN_TIME_S), daemon.log.read_text()
        for pid in tree(daemon.process.pid):
            resource.prlimit(pid, which, (hard, hard))
        with daemon.client(0) as again:
            assert again.reach(MHZ), daemon.log.read_text()
