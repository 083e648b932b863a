"""The daemon's state folder: one daemon at a time, and the journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.daemon.processlist import ProcessList
from voltana_actuatord.daemon.trust import untrusted
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 0.3
DEATH_LIMIT_S = 1.0


class StateFolder:
    """Takes the folder for this process, ending a worker that an earlier daemon left behind.

    The lock is inherited by the worker, so that the folder is taken for as long as either lives.
    GPUs' processes do not hold it, since one that hangs in the kernel cannot be ended.

    Args:
        path: The folder; created with mode 0700 if absent.
        beside: Where the list of this daemon's processes lies (`claims_dir`).

    Attributes:
        journal: What is locked.
        lock: Descriptor that holds the lock.
        processes: The list of this daemon's processes.

    Raises:
        ActuatorError: If another daemon uses it, or it cannot be made.
    """

    def __init__(self, path: Path, beside: Path) -> None:
        self._path = path
        self._log = Log("parent")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_untrusted(path)
            self._refuse_untrusted(path / "journal")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.lock = os.open(path / "lock", flags, 0o600)
            self.journal = Journal(path / "journal")
            self.processes = ProcessList(beside, path)
        except OSError as error:
            raise ActuatorError(
                f"state_dir {path} cannot be used: {error.strerror}. Run the daemon as root, or "
                "give it a state_dir of its own."
            ) from None
        self._take()

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
                self.processes.kill_left_over(self._log)  # GPUs' processes hold no lock
                return
            if time.monotonic() > ends_s:
                if killed or not self.processes.kill_left_over(self._log):
                    os.close(self.lock)
                    raise ActuatorError(
                        f"another voltana-actuatord uses {self._path}. Stop it first, or give "
                        "this one a state_dir of its own."
                    )
                killed, ends_s = True, time.monotonic() + DEATH_LIMIT_S
            time.sleep(0.02)
