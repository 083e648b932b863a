"""Control steps of a client, and whether they have come about."""

from __future__ import annotations

import time

from tests.actuation.daemons import Daemon
from voltana.values import Health

MHZ = 1005.0


def locking_daemon(folder, machine):
    """A daemon of its own, and a client of it whose clock is locked at `MHZ`."""
    daemon = Daemon(folder, machine)
    daemon.wait_ready()
    client = daemon.client()
    assert client.reach(MHZ)
    return daemon, client


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
