"""Which processes a daemon has, for whoever comes after one that was killed.

The list lies where daemons keep their claims, which is memory on a host that is set up as it should
be: it is written whenever a process starts or ends, by the parent, whom a disk that stands still
must not keep from looking after clocks. What it says is worth nothing after a boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.starving import stat_fields
from voltana_actuatord.daemon.trust import untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

MAX_BYTES = 65_536
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # whatever lies in its place: nobody waits


class ProcessList:
    """The list of the daemon of one state folder.

    Args:
        folder: Where it lies (`claims_dir`); need not exist yet.
        state: The state folder, which no two daemons share; it may be removed and made anew.

    Attributes:
        path: The list.
    """

    def __init__(self, folder: Path, state: Path) -> None:
        name = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
        self.path = folder / f"processes-{name}"

    def note(self, pids: Iterable[int]) -> None:
        """Record the processes of this one, in a folder that was found to be trusted."""
        text = f"{os.getpid()}\n" + "".join(f"{pid} {_started(pid)}\n" for pid in pids)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS
        with contextlib.suppress(OSError):  # no room must not keep anybody from restoring
            handle = os.open(self.path, flags, 0o600)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)

    def kill_left_over(self, log: Callable[[str], None]) -> bool:
        """Kill the recorded processes if their parent is gone; whether there was one.

        A list that others could have written names nobody.
        """
        killed = False
        with contextlib.suppress(OSError, ValueError):
            if untrusted(self.path, link_at_end=False):
                return False
            with os.fdopen(os.open(self.path, os.O_RDONLY | _FLAGS)) as file:
                parent, *children = file.read(MAX_BYTES).splitlines()
            for line in children:
                pid, started = map(int, line.split())
                if _started(pid) == started and _parent_of(pid) != int(parent):
                    log(f"killing process {pid}, which an earlier daemon left behind.")
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
