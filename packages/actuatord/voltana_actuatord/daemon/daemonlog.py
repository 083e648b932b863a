"""Log lines of the daemon: to standard error, where the service manager keeps them, at a bound.

A reader that stands still, or a disk that is full, must not keep a clock locked: lines are written
without ever waiting, and those that cannot be are dropped and counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import time

LINES_PER_S = 10.0
BURST = 50.0
STDERR = 2

# Shared with what this process forks, as the logs themselves are: the parent counts for all GPUs'
# processes. Two that drop a line in the same moment may be counted as one.
_DROPPED = memoryview(mmap.mmap(-1, 8)).cast("q")


def dropped_lines() -> int:
    """Lines that this process, and those that it forked, could not write."""
    return _DROPPED[0]


def never_wait(handle: int = STDERR) -> None:
    """Have writes to a descriptor fail rather than wait, in this process and its children.

    A pipe, a FIFO and a terminal may be shared with other programs, which expect theirs to wait: so
    the descriptor is replaced by another opening of the same file. What cannot be opened again, as
    a socket, is changed as it is.
    """
    _fill_standard()
    with contextlib.suppress(OSError):
        mode = os.fstat(handle).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with contextlib.suppress(OSError):
                another = os.open(f"/proc/self/fd/{handle}", flags)
                os.dup2(another, handle)
                os.close(another)
                return
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_NONBLOCK)


def _fill_standard() -> None:
    """Have nothing else opened in the place of a standard descriptor that was closed."""
    for handle in range(STDERR + 1):
        try:
            os.fstat(handle)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


class Log:
    """Writes lines, and drops those beyond a rate so that no client can fill a disk.

    Args:
        name: Who speaks.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._allowance = BURST
        self._at_s = time.monotonic()
        self._dropped = 0

    def __call__(self, text: str) -> None:
        """Write one line if that does not wait."""
        now_s = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now_s - self._at_s) * LINES_PER_S) - 1.0
        self._at_s = now_s
        if self._allowance < 0.0:
            self._allowance = 0.0
            self._drop()
            return
        more = f" ({self._dropped} lines left out)" if self._dropped else ""
        line = "".join(c if c.isprintable() else "?" for c in text)[:500]
        try:
            os.write(STDERR, f"voltana-actuatord {self._name}: {line}{more}\n".encode())
        except OSError:  # nobody reads, or there is no room
            self._drop()
        else:
            self._dropped = 0

    def _drop(self) -> None:
        self._dropped += 1
        _DROPPED[0] += 1
