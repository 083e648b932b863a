"""The daemon's state folder: one daemon at a time, the journal, and who the worker is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.starving import stat_fields
from voltana_actuatord.daemon.trust import untrusted
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PATIENCE_S = 0.3
DEATH_LIMIT_S = 1.0
PROCESSES = "processes"
"""File that lists this daemon's processes."""


class StateFolder:
    """Takes the folder for this process, ending a worker that an earlier daemon left behind.

    The lock is inherited by the worker, so that the folder is taken for as long as either lives.
    GPUs' processes do not hold it, since one that hangs in the kernel cannot be ended.

    Args:
        path: The folder; created with mode 0700 if absent.

    Attributes:
        journal: What is locked.
        lock: Descriptor that holds the lock.

    Raises:
        ActuatorError: If another daemon uses it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = Log("parent")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_untrusted(path)
            self._refuse_untrusted(path / "journal")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.lock = os.open(path / "lock", flags, 0o600)
            self.journal = Journal(path / "journal")
        except OSError as error:
            raise ActuatorError(
                f"state_dir {path} cannot be used: {error.strerror}. Run the daemon as root, or "
                "give it a state_dir of its own."
            ) from None
        self._take()

    def note(self, pids: Iterable[int]) -> None:
        """Record the processes of this one: whoever comes after ends what is left of them."""
        text = f"{os.getpid()}\n" + "".join(f"{pid} {_started(pid)}\n" for pid in pids)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):  # a full disk must not keep anybody from restoring
            handle = os.open(self._path / PROCESSES, flags, 0o600)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)

    def _refuse_untrusted(self, path: Path) -> None:
        if problem := untrusted(path, link_at_end=False):
            raise ActuatorError(
                f"state_dir {self._path} is not trusted: {problem}. Choose a folder that root "
                "alone can write, such as /var/lib/voltana."
            )

    def _take(self) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        killed = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._kill_left_over()  # GPUs' processes hold no lock
                return
            if time.monotonic() > ends_s:
                if killed or not self._kill_left_over():
                    os.close(self.lock)
                    raise ActuatorError(
                        f"another voltana-actuatord uses {self._path}. Stop it first, or give "
                        "this one a state_dir of its own."
                    )
                killed, ends_s = True, time.monotonic() + DEATH_LIMIT_S
            time.sleep(0.02)

    def _kill_left_over(self) -> bool:
        """Kill the recorded processes if their parent is gone; whether there was one."""
        killed = False
        with contextlib.suppress(OSError, ValueError):
            parent, *children = (self._path / PROCESSES).read_text().splitlines()
            for line in children:
                pid, started = map(int, line.split())
                if _started(pid) == started and _parent_of(pid) != int(parent):
                    self._log(f"killing process {pid}, which an earlier daemon left behind.")
                    os.kill(pid, signal.SIGKILL)
                    killed = True
        return killed


def _started(pid: int) -> int:
    """When a process was started, in ticks since the boot; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(stat_fields(pid)[19])
    return 0


def _parent_of(pid: int) -> int:
    return int(stat_fields(pid)[1])
