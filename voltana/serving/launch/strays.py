"""The launch's own part in leaving nothing behind: the pipe of its wardens, and what lost one."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.serving.launch import warden

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK = "VOLTANA_LAUNCHED"
"""Environment variable by which the descendants of one process are known, whatever became of it."""

_KILL_S = 5.0


@functools.cache
def pipe() -> int:
    """The end of a pipe that all wardens of this process are given; it closes with this process.

    The other end is this process's alone: no child keeps it.
    """
    read, _ = os.pipe2(os.O_CLOEXEC)  # the other is never closed, nor written to
    return read


def guarded(command: Iterable[str], grace_s: float) -> list[str]:
    """The command that runs another under a warden.

    Args:
        command: The other.
        grace_s: Time that the other gets to end.
    """
    path = str(Path(warden.__file__).resolve())
    return [sys.executable, "-I", "-S", path, str(pipe()), f"{grace_s:g}", *command]


def end_strays(session: int, mark: str) -> None:
    """Kill what lost its warden.

    Args:
        session: That of the warden, which has ended.
        mark: Value of `MARK` in the environment of its descendants.
    """
    ends_s = time.monotonic() + _KILL_S
    while (left := _strays(session, mark)) and time.monotonic() < ends_s:
        warden.kill(left)
        time.sleep(0.01)


def _strays(session: int, mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    return [
        pid
        for pid, (state, _, its_session) in warden.processes().items()
        if state != "Z" and pid != os.getpid() and (its_session == session or _has(pid, wanted))
    ]


def _has(pid: int, variable: bytes) -> bool:
    try:
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is somebody else's
        return False
