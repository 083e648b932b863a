"""Who goes first: what stands for another machine must not wait for this one's processes.

A board computes whatever its host is at, and clients have hosts of their own. Virtual engines and
the load therefore preempt other processes, where they may; production's processes, which are what
is rehearsed, take their turns as anywhere.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

AHEAD = -10
"""Niceness where the real-time class is not to be had."""


def go_first() -> None:
    """Let this thread preempt other processes, if it may; its children do not inherit that."""
    if not _go_real_time():
        with contextlib.suppress(OSError):
            os.nice(AHEAD)


@contextlib.contextmanager
def going_first() -> Iterator[None]:
    """The same for a while, in the real-time class alone: niceness could not be given back."""
    ahead = _go_real_time()
    try:
        yield
    finally:
        if ahead:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _go_real_time() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return False
    return True


def keep_niceness(pid: int) -> None:
    """Let a process that has a session of its own count for what its niceness says.

    Linux schedules sessions as groups, each of the same weight unless told otherwise
    (``sched_autogroup_enabled``), so that niceness changes nothing against other sessions.
    """
    with contextlib.suppress(OSError):  # no such process any more, or no autogroups
        niceness = os.getpriority(os.PRIO_PROCESS, pid)
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")
