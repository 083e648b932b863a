"""The client that the chaos suite torments: a control loop at 100 Hz with random clocks.

``python -m tests.actuation.chaos_client SOCKET LEASE_S``. SIGUSR1 hangs the control loop while the
process and another thread of it stay alive, SIGUSR2 lets it go on.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time

from tests.actuation.driver import uuid_of
from voltana.levels import A100_CLOCKS_MHZ as TABLE
from voltana.values import Command, Domain
from voltana_actuatord.client import ActuatorProcess


def main() -> None:
    """Step until killed."""
    domain = Domain(name="chaos", devices=(uuid_of(0), uuid_of(1)))
    lease_s = float(sys.argv[2])
    actuator = ActuatorProcess(domain, socket_path=sys.argv[1], lease_s=lease_s, table_mhz=TABLE)
    loop = _Loop()
    signal.signal(signal.SIGUSR1, loop.hang)
    signal.signal(signal.SIGUSR2, loop.go_on)
    signal.signal(signal.SIGTERM, lambda *_: (actuator.close(), sys.exit(0)))
    threading.Thread(target=_alive, daemon=True).start()
    rng = random.Random(0)
    step = 0
    while True:
        if not loop.hung:
            clock_mhz = rng.choice(TABLE)
            actuator.apply(
                Command(domain=domain, clock_mhz=clock_mhz, sequence=step, lease_s=lease_s)
            )
            step += 1
        actuator.status()
        time.sleep(0.01)


class _Loop:
    """Whether the control loop hangs: it was told to once more than to go on.

    Counts, since one handler may interrupt the other: where SIGUSR2 came as that of SIGUSR1 had
    just begun, a flag was set last by the latter, and the loop hung for good. And no
    `threading.Event`: its lock would deadlock the process then.
    """

    def __init__(self) -> None:
        self._hangs = self._goes_on = 0

    @property
    def hung(self) -> bool:
        return self._hangs > self._goes_on

    def hang(self, *_: object) -> None:
        self._hangs += 1

    def go_on(self, *_: object) -> None:
        self._goes_on += 1


def _alive() -> None:
    """A thread that outlives a hung control loop, and proves nothing by it."""
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
