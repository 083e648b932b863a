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

from voltana.levels import A100_CLOCKS_MHZ as TABLE
from voltana.values import Command, Domain
from voltana_actuatord.client import ActuatorProcess


def main() -> None:
    """Step until killed."""
    domain = Domain(name="chaos", devices=(0, 1))
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
    """Whether the control loop hangs.

    No `threading.Event`: its lock deadlocks the process if one handler interrupts another inside.
    """

    hung = False

    def hang(self, *_: object) -> None:
        self.hung = True

    def go_on(self, *_: object) -> None:
        self.hung = False


def _alive() -> None:
    """A thread that outlives a hung control loop, and proves nothing by it."""
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
