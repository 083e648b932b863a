"""Whether a process that is silent hangs, or has been given no core: as /proc tells.

On a host with more work than cores even a process that goes first may wait for tenths of a second.
To kill it for that gives back every clock that it looks after, and its successor needs more of the
core that is not there. What waits for a core is runnable and does not run; what hangs either is not
runnable, or runs without a sign of life.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

MOST_S = 1.0
"""How long it is waited for at most: clocks have to come back on a busy host as well."""

RUNNING_TICKS = 3
"""Ticks of a core (1/100 s each on Linux) that are enough for a sign of life."""


class Starving:
    """Looks at one process after another that should have given a sign of life."""

    def __init__(self) -> None:
        self._pid = 0
        self._since_s = 0.0
        self._ran_ticks = 0

    def spares(self, pid: int, heard_s: float, now_s: float) -> bool:
        """Whether a process is to be given more time, since it had no core.

        Args:
            pid: The process.
            heard_s: When its last sign of life came.
            now_s: The time.
        """
        state, ran_ticks = _state(pid)
        if state != "R":
            return False
        if pid != self._pid or heard_s > self._since_s:
            self._pid, self._since_s, self._ran_ticks = pid, now_s, ran_ticks
        return ran_ticks < self._ran_ticks + RUNNING_TICKS and now_s < self._since_s + MOST_S


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name.

    Raises:
        OSError: If there is no such process, or /proc is hidden.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> tuple[str, int]:
    """Its state in a letter, and for how many ticks it has run; no letter where it is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = stat_fields(pid)
        return fields[0], int(fields[11]) + int(fields[12])
    return "", 0
