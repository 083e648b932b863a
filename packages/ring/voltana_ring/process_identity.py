"""Which process a process id means: ids are given out again, in containers soon.

Only the standard library is imported: this runs inside the engine.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STARTED_FIELD = 19
"""Index of the start time behind the name in ``/proc/PID/stat`` (proc(5) counts it as 22)."""

_ENDED = frozenset({"Z", "X"})
"""States of a process that has ended and that nobody has asked for."""


def started_at(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot; None if there is none."""
    fields = _stat(pid)
    return None if fields is None else int(fields[_STARTED_FIELD])


def is_running(pid: int, started: int | None) -> bool:
    """Whether a process runs.

    Args:
        pid: Its id.
        started: When it started, as `started_at` gave it; None takes any process of the id.
    """
    fields = _stat(pid)
    if fields is None:
        return _exists(pid)
    return fields[0] not in _ENDED and started in {None, int(fields[_STARTED_FIELD])}


def _stat(pid: int) -> list[str] | None:
    with contextlib.suppress(OSError, ProcessLookupError):
        # The name stands in parentheses and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return None


def _exists(pid: int) -> bool:
    """Where /proc does not show it, as with hidepid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
