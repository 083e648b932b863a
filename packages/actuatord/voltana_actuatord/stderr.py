"""Standard error, where service managers keep logs, written without ever waiting.

A reader that stands still, or is gone, must hold up nobody: what cannot be written is dropped and
counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat

STDERR = 2

# Shared with what this process forks, as the logs themselves are: the parent counts for all GPUs'
# processes. Two that drop a line in the same moment may be counted as one.
_COUNTS = memoryview(mmap.mmap(-1, 16)).cast("q")
_DROPPED, _TORN = 0, 1
"""Lines that were not written; whether the last one that was is there in part."""


def dropped_lines() -> int:
    """Lines that this process, and those that it forked, could not write."""
    return _COUNTS[_DROPPED]


def drop_line() -> None:
    """Count a line that is not written."""
    _COUNTS[_DROPPED] += 1


def write_line(line: bytes) -> bool:
    """Write a line if that does not wait, and count it otherwise; whether it was written.

    A long one, or any on a full disk, may be written in part: then the next one ends it first.

    Args:
        line: With its end.
    """
    if _COUNTS[_TORN]:
        line = b"\n" + line
    try:
        written = os.write(STDERR, line)
    except OSError:  # nobody reads, or there is no room
        written = 0
    if written:
        _COUNTS[_TORN] = written < len(line)
    if written < len(line):
        drop_line()
        return False
    return True


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
