"""Control steps of a client, and whether they have come about."""

from __future__ import annotations

import time

from voltana.values import Health

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
