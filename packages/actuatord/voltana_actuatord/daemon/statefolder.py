"""The daemon's state folder: one daemon at a time, the journal, and who the worker is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.journal import Journal
from voltana_actuatord.errors import ActuatorError

PATIENCE_S = 0.3
DEATH_LIMIT_S = 1.0


class StateFolder:
    """Takes the folder for this process, ending a worker that an earlier daemon left behind.

    The lock is inherited by the worker, so that the folder is taken for as long as either lives.

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
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self.lock = os.open(path / "lock", flags, 0o600)
            self.journal = Journal(path / "journal")
        except OSError as error:
            raise ActuatorError(
                f"state_dir {path} cannot be used: {error.strerror}. Run the daemon as root, or "
                "give it a state_dir of its own."
            ) from None
        self._take()

    def note_worker(self, pid: int) -> None:
        """Record the worker of this process."""
        (self._path / "worker.pid").write_text(f"{pid} {os.getpid()}")

    def forget_worker(self) -> None:
        """Record that there is none."""
        (self._path / "worker.pid").unlink(missing_ok=True)

    def _take(self) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        killed = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """Kill the recorded worker if its parent is gone; whether there was one."""
        with contextlib.suppress(OSError, ValueError):
            pid, parent = map(int, (self._path / "worker.pid").read_text().split())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent_now = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if b"voltana_actuatord.daemon.worker" in command and parent_now != parent:
                self._log(f"killing worker {pid}, which an earlier daemon left behind.")
                os.kill(pid, signal.SIGKILL)
                return True
        return False
