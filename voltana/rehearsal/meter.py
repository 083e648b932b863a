"""``python -m voltana.rehearsal.meter``: reads the boards from outside, as any tool would.

It loads the driver through the real binding, needs no privilege and knows nothing of the rehearsal:
it is what a meter in the wall socket is to a server.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from voltana_actuatord.drivers.opening import open_driver
from voltana_actuatord.faults import DriverError


class Reading(NamedTuple):
    """One look at all boards, in the order of their indices.

    Attributes:
        at_s: When, on the wall's monotonic clock.
        clock_mhz: SM clocks.
        power_w: Powers.
        energy_j: Counters of energy.
    """

    at_s: float
    clock_mhz: tuple[float, ...]
    power_w: tuple[float, ...]
    energy_j: tuple[float, ...]


def read_log(path: Path) -> list[Reading]:
    """What a meter has written; a last line that is not whole is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Reading(at_s, tuple(c), tuple(p), tuple(e)) for at_s, c, p, e in map(json.loads, lines)]


def main(arguments: list[str]) -> None:
    """Append a reading each period, until killed.

    Args:
        arguments: The file, and the period in seconds of the wall.
    """
    path, period_s = Path(arguments[0]), float(arguments[1])
    with closing(open_driver()) as driver, path.open("a", encoding="utf-8") as file:
        gpus = [driver.gpu(index) for index in range(driver.count())]
        while True:
            with suppress(DriverError):  # a GPU is lost: the next reading covers the gap
                energy_j = tuple(gpu.energy_j() for gpu in gpus)
                at_s, clocks_mhz = time.monotonic(), tuple(gpu.clock_mhz() for gpu in gpus)
                powers_w = tuple(gpu.power_w() for gpu in gpus)
                reading = Reading(at_s, clocks_mhz, powers_w, energy_j)
                file.write(json.dumps(reading) + "\n")
            file.flush()
            time.sleep(period_s)


if __name__ == "__main__":
    main(sys.argv[1:])
