"""What an engine knows of its fake GPUs that nobody may ask a driver: clocks to come, and power.

The engine looks into the driver's memory as a board would: which clock was set, and when it will be
in force; and it says what the board draws, of which the driver makes power and energy.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from voltana.rehearsal.machine import WORD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NS = 1e9


class Asked(NamedTuple):
    """What the driver was told last.

    Attributes:
        clock_mhz: The clock; the fastest where none is set.
        in_force_ns: From when on it holds, on the wall's monotonic clock.
    """

    clock_mhz: float
    in_force_ns: int


class DriverView:
    """The GPUs of one instance, which change clock as one.

    Args:
        path: The driver's state.
        devices: Their indices.
    """

    def __init__(self, path: Path, devices: Sequence[int]) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("Q")
        self._bases = [WORD["H_WORDS"] + device * WORD["D_WORDS"] for device in devices]
        self._pid = os.getpid()
        # A counter never falls: what it has counted before this process spoke stays in it.
        self._counted_uj = [1000 * self._words[base + WORD["D_ENERGY_MJ"]] for base in self._bases]

    def asked(self) -> Asked:
        """The slowest clock of the devices, and when the last of them has settled."""
        words, found = self._words, []
        for base in self._bases:
            lock, changed = words[base + WORD["D_LOCK"]], words[base + WORD["D_CHANGED_NS"]]
            if lock:
                settle_ns = words[base + WORD["D_SETTLE_US"]] * 1000
                found.append(Asked(float(lock >> 16 & 0xFFFF), changed + settle_ns))
            else:
                found.append(Asked(float(words[base + WORD["D_LAST_MHZ"]]), changed))
        return Asked(min(one.clock_mhz for one in found), max(one.in_force_ns for one in found))

    def say(self, at_ns: int, energy_j: float, power_w: float, limited_mhz: float) -> None:
        """Say what the instance draws.

        Args:
            at_ns: Since when.
            energy_j: Energy of all its devices by then, since this view was made.
            power_w: Their power from then on.
            limited_mhz: Clock to which the power limit lowers them; 0 for not at all.
        """
        words, share = self._words, 1.0 / len(self._bases)
        for base, counted_uj in zip(self._bases, self._counted_uj, strict=True):
            turn = base + WORD["D_SAID_TURN"]
            words[turn] += 1
            words[base + WORD["D_SAID_NS"]] = at_ns
            words[base + WORD["D_SAID_UJ"]] = counted_uj + int(energy_j * share * 1e6)
            words[base + WORD["D_SAID_MW"]] = int(power_w * share * 1e3)
            words[base + WORD["D_SAID_MHZ"]] = int(limited_mhz)
            words[base + WORD["D_SAID_BY"]] = self._pid
            words[turn] += 1

    def close(self) -> None:
        """Let the driver's memory go."""
        self._words.release()
        self._map.close()
