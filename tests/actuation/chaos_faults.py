"""What the chaos suite does to the driver, the files and the log while it hits processes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.actuation.daemons import Daemon
    from tests.actuation.driver import Machine

THEIRS_MHZ = 975
PASSING = {
    "GPU lost for 0.3 s": 0.3,
    "GPU vanishes for 0.3 s": 0.3,
}
"""Faults that end by themselves, and when: until then nothing can be restored."""

UNMARKING = ("marks removed", "state folder removed")
CODES = (2, 3, 4, 6, 10, 15, 16, 17, 999)


class LogPipe:
    """The daemon's standard error: a pipe whose reader may stand still.

    Args:
        path: Where what was read goes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader, self.writer = os.pipe()
        self._reading = threading.Event()
        self._reading.set()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stand_still(self) -> None:
        """Stop reading, with the pipe full."""
        self._reading.clear()
        another = os.open(f"/proc/self/fd/{self.writer}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(another, b"." * 4096)
        except BlockingIOError:
            os.close(another)

    def go_on(self) -> None:
        """Read on."""
        self._reading.set()

    def text(self) -> str:
        """What was read."""
        return self._path.read_text(errors="replace").replace("." * 64, "")

    def close(self) -> None:
        """End the reader."""
        self.go_on()
        os.close(self.writer)
        self._thread.join(5.0)
        os.close(self._reader)

    def _read(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while True:
                self._reading.wait()
                data = os.read(self._reader, 65536)
                if not data:
                    return
                file.write(data.replace(b"." * 64, b""))


class Faults:
    """Injects faults, and takes them back.

    Args:
        machine: The fake machine.
        daemon: The daemon.
        pipe: Its log.
        rng: Chooses.
    """

    def __init__(self, machine: Machine, daemon: Daemon, pipe: LogPipe, rng: random.Random) -> None:
        self._machine = machine
        self._daemon = daemon
        self._pipe = pipe
        self._rng = rng
        self._kinds: dict[str, Callable[[int], object]] = {
            "none": lambda _: None,
            "nothing": lambda _: None,
            "set returns an error": self._code("F_SET"),
            "set hangs": self._kind("F_SET", "K_HANG"),
            "set does nothing": self._kind("F_SET", "K_SILENT", (1, 2)),
            "reset returns an error": self._code("F_RESET"),
            "reset hangs": self._kind("F_RESET", "K_HANG"),
            "reset does nothing": self._kind("F_RESET", "K_SILENT", (1, 2, 3, 5, 8)),
            "read-back fails": self._code("F_CLOCK"),
            "read-back hangs": self._kind("F_CLOCK", "K_HANG"),
            "reasons fail": self._code("F_REASONS"),
            "reasons hang": self._kind("F_REASONS", "K_HANG"),
            "opening fails": self._code("F_HANDLE"),
            "opening hangs": self._kind("F_HANDLE", "K_HANG"),
            "MIG cannot be read": self._code("F_MIG"),
            "slow calls": self._word("D_CALL_US", 11_000),
            "slow resets": self._word("D_RESET_US", 60_000),
            "GPU lost for 0.3 s": self._word("D_LOST", 1),
            "GPU vanishes for 0.3 s": self._word("D_GONE", 1),
            "MIG enabled": self._word("D_MIG", 1),
            "another tool sets a clock": self._outside,
            "log pipe stands still": lambda _: pipe.stand_still(),
            "marks removed": self._remove_marks,
            "state folder removed": self._remove_folder,
        }

    def choose(self, *, spare_marks: bool) -> str:
        """One fault.

        Args:
            spare_marks: Whether the marks have to stay, because everybody who knows of a lock is
                killed: init kills the whole group after the parent, and nothing else is left then.
        """
        kinds = [kind for kind in self._kinds if not (spare_marks and kind in UNMARKING)]
        return self._rng.choice(kinds)

    def inject(self, fault: str, device: int) -> None:
        """Bring it about on a device."""
        self._kinds[fault](device)

    def clear(self) -> None:
        """Take everything back."""
        self._pipe.go_on()
        self._machine.clear_faults()
        for device in range(self._machine.devices):
            self._machine.set(device, "D_CALL_US", 500)
            self._machine.set(device, "D_RESET_US", 0)
            self._machine.set(device, "D_MIG", 0)
            if self._is_theirs(device):
                self._machine.set(device, "D_LOCK", 0)

    def nothing_of_ours_is_locked(self) -> bool:
        """Whether no device is locked but by the other tool, which keeps its clock."""
        return all(
            not self._machine.get(device, "D_LOCK") or self._is_theirs(device)
            for device in range(self._machine.devices)
        )

    def _is_theirs(self, device: int) -> bool:
        lock = THEIRS_MHZ << 32 | THEIRS_MHZ << 16 | THEIRS_MHZ
        return self._machine.get(device, "D_LOCK") == lock

    def _outside(self, device: int) -> None:
        time.sleep(self._rng.uniform(0.0, 0.02))
        self._machine.lock_from_outside(device, THEIRS_MHZ)

    def _remove_marks(self, _: int) -> None:
        for path in list(self._daemon.journal.glob("*.locked")):
            path.unlink(missing_ok=True)

    def _remove_folder(self, _: int) -> None:
        shutil.rmtree(self._daemon.journal.parent, ignore_errors=True)

    def _code(self, target: str) -> Callable[[int], None]:
        def inject(device: int) -> None:
            code, times = self._rng.choice(CODES), self._rng.choice((1, 2))
            self._machine.fault(device, target, "K_CODE", code, times)

        return inject

    def _kind(self, target: str, kind: str, times: tuple[int, ...] = (1,)) -> Callable[[int], None]:
        return lambda device: self._machine.fault(device, target, kind, 0, self._rng.choice(times))

    def _word(self, word: str, value: int) -> Callable[[int], None]:
        return lambda device: self._machine.set(device, word, value)
