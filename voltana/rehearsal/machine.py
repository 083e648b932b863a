"""A machine with fake GPUs: their state in a shared file, which every process's driver maps.

The file holds 64-bit words whose layout `fake_nvml/layout.h` gives; the names are read from there,
so that C and Python cannot drift apart. docs/fake-nvml.md describes how the GPUs behave.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.rehearsal.fake_driver import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = 0x564F4C54
STATE_VARIABLE = "FAKE_NVML_STATE"
ALWAYS = 0xFFFFFFFF
A100 = {
    "D_FIRST_MHZ": 210,
    "D_LAST_MHZ": 1410,
    "D_STEP_MHZ": 15,
    "D_MEMORY_MHZ": 1593,
    "D_IDLE_MHZ": 210,
    "D_BUSY": 1,
    "D_PERSISTENCE": 1,
    "D_CAP_MW": 400_000,
    "D_CAP_DEFAULT_MW": 400_000,
    "D_CAP_MIN_MW": 100_000,
    "D_CAP_MAX_MW": 400_000,
    "D_IDLE_MW": 60_000,
    "D_FULL_MW": 380_000,
    "D_TICK_MS": 20,
    "D_CALL_US": 500,
    "D_ENERGY_US": 3_000,
    "D_SETTLE_US": 5_000,
    "D_APP_MHZ": 1410,
    "D_APP_DEFAULT_MHZ": 1410,
}
"""An A100 with a busy engine; call and settling time shortened, so that tests are quick."""


def _enums() -> dict[str, int]:
    """Every constant of the C header, by name."""
    header = (SOURCE / "layout.h").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    values: dict[str, int] = {}
    for body in re.findall(r"enum(?:\s+\w+)?\s*\{(.*?)\}", text, flags=re.DOTALL):
        following = 0
        for entry in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = (piece.strip() for piece in entry.partition("="))
            following = int(value) if value else following
            values[name] = following
            following += 1
    return values


WORD = _enums()


def uuid_of(device: int) -> str:
    """UUID of the fake GPU with an index on the node."""
    return f"GPU-fa4e0000-0000-0000-0000-{device:012d}"


class Machine:
    """A machine with `devices` fake GPUs; a context manager that unmaps the state.

    Args:
        folder: Where its state file goes.
        library: Folder with the fake library.
        devices: Number of GPUs.
        fields: Words of every device that differ from those of `A100`.
    """

    def __init__(self, folder: Path, library: Path, devices: int = 2, **fields: int) -> None:
        self.path = folder / "nvml.state"
        self.library = library
        self.devices = devices
        words = WORD["H_WORDS"] + WORD["MAX_DEVICES"] * WORD["D_WORDS"]
        words += WORD["MAX_PROCESSES"] + 2 * WORD["RING"]
        self.path.write_bytes(bytes(8 * words))
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.header("H_DEVICES", devices)
        self.header("H_DRIVER_LOADED", 1)
        self.header("H_PRIVILEGED_UID", os.geteuid())
        self.header("H_NEEDS_SYS_ADMIN", int(os.geteuid() == 0 and _has_sys_admin()))
        for device in range(devices):
            for name, value in (A100 | fields).items():
                self.set(device, name, value)
            self.set(device, "D_ENERGY_NS", time.monotonic_ns())
        self.header("H_MAGIC", MAGIC)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the state."""
        self._map.close()

    def environment(self, **more: str) -> dict[str, str]:
        """Environment in which a process loads the fake driver with this machine's state.

        ``NVIDIA_VISIBLE_DEVICES`` puts it into a container that was given those GPUs alone.
        """
        own = {
            "LD_LIBRARY_PATH": str(self.library),
            STATE_VARIABLE: str(self.path),
            "NVIDIA_VISIBLE_DEVICES": "all",
        }
        return os.environ | own | more

    def header(self, name: str, value: int | None = None) -> int:
        """Read a word of the header, or write it first."""
        return self._word(WORD[name], value)

    def set(self, device: int, name: str, value: int) -> None:
        """Write a word of a device."""
        self._word(self._at(device) + WORD[name], value)

    def get(self, device: int, name: str) -> int:
        """Read a word of a device."""
        return self._word(self._at(device) + WORD[name])

    def fault(
        self, device: int, target: str, kind: str, argument: int = 0, count: int = ALWAYS
    ) -> None:
        """Make the next `count` calls of a function fail (``F_SET``, ``K_CODE``, code)."""
        word = WORD[kind] << 56 | argument << 32 | count
        self._word(self._at(device) + WORD["D_FAULTS"] + WORD[target], word)

    def clear_faults(self) -> None:
        """Take every fault back, lost devices included."""
        for device in range(self.devices):
            self.set(device, "D_LOST", 0)
            self.set(device, "D_GONE", 0)
            for target in range(WORD["F_COUNT"]):
                self._word(self._at(device) + WORD["D_FAULTS"] + target, 0)

    def lock_from_outside(self, device: int, clock_mhz: int) -> None:
        """What another tool does, such as ``nvidia-smi -lgc``."""
        self.set(device, "D_LOCK", clock_mhz << 32 | clock_mhz << 16 | clock_mhz)

    def locked_mhz(self, device: int = 0) -> int:
        """Clock that a device is locked at (its maximum); 0 if it is not locked."""
        return self.get(device, "D_LOCK") >> 16 & 0xFFFF

    def any_locked(self) -> bool:
        """Whether the clock of any device is locked."""
        return any(self.get(device, "D_LOCK") for device in range(self.devices))

    def unlocked_at_s(self, device: int = 0) -> float:
        """When the lock last went away, on the monotonic clock."""
        return self.get(device, "D_UNLOCKED_NS") * 1e-9

    def set_calls(self) -> list[tuple[float, int, int]]:
        """The last calls that set a clock: when each entered (monotonic s), device, MHz."""
        head, ring = self.header("H_RING_HEAD"), WORD["RING"]
        base = WORD["H_WORDS"] + WORD["MAX_DEVICES"] * WORD["D_WORDS"] + WORD["MAX_PROCESSES"]
        calls = []
        for entry in range(max(0, head - ring), head):
            at, what = struct.unpack_from("<QQ", self._map, 8 * (base + 2 * (entry % ring)))
            calls.append((at * 1e-9, what >> 32, what & 0xFFFFFFFF))
        return calls

    def wait(self, condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
        """Wait until `condition()` holds; whether it did in time."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            if condition():
                return True
            time.sleep(0.002)
        return bool(condition())

    def _at(self, device: int) -> int:
        return WORD["H_WORDS"] + device * WORD["D_WORDS"]

    def _word(self, index: int, value: int | None = None) -> int:
        if value is not None:
            struct.pack_into("<Q", self._map, 8 * index, value)
        return int(struct.unpack_from("<Q", self._map, 8 * index)[0])


def _has_sys_admin() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False
