"""The client that the chaos suite torments: a control loop at 100 Hz with random clocks.

``python -m tests.actuation.chaos_client SOCKET LEASE_S HUNG``. While the file HUNG is there, the
control loop hangs; the process and another thread of it stay alive. A file and no signals: the
handler of a second one may run within the handler of the first, which then has the last word.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from pathlib import Path

from tests.actuation.driver import uuid_of
from voltana.levels import A100_CLOCKS_MHZ as TABLE
from voltana.values import Command, Domain
from voltana_actuatord.client import ActuatorProcess


def main() -> None:
    """Step until killed."""
    domain = Domain(name="chaos", devices=(uuid_of(0), uuid_of(1)))
    lease_s = float(sys.argv[2])
    actuator = ActuatorProcess(domain, socket_path=sys.argv[1], lease_s=lease_s, table_mhz=TABLE)
    hung = Path(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: (actuator.close(), sys.exit(0)))
    threading.Thread(target=_alive, daemon=True).start()
    rng = random.Random(0)
    step = 0
    while True:
        if not hung.exists():
            clock_mhz = rng.choice(TABLE)
            actuator.apply(
                Command(domain=domain, clock_mhz=clock_mhz, sequence=step, lease_s=lease_s)
            )
            step += 1
        actuator.status()
        time.sleep(0.01)


def _alive() -> None:
    """A thread that outlives a hung control loop, and proves nothing by it."""
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
