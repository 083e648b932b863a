"""The launch's own part in leaving nothing behind: the pipe of its wardens, and what lost one.

Who kills a launch and all its wardens in one moment (``pkill -9 -f voltana``) leaves behind what
its processes had started. It is found by two variables in its environment, and ended when a launch
with the same folder of logs starts next.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.serving.launch import warden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MARK = "VOLTANA_LAUNCHED"
"""Environment variable by which the descendants of one process are known, whatever became of it."""

PLACE = "VOLTANA_LAUNCH_LOGS"
"""Environment variable that says to which launch a process belongs: its folder of logs."""

_LOCK = "launch.lock"
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
    _kill_while_there(lambda: _strays(f"{MARK}={mark}", session))


@contextlib.contextmanager
def sole_launch(logs: Path, report: Callable[[str, str], None]) -> Iterator[None]:
    """Be the only launch with a folder of logs; what an earlier one left behind is killed first.

    Args:
        logs: The folder; made if absent.
        report: Told the name and a line of text if there was something.

    Raises:
        ConfigError: If another launch lives there.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another launch is running with the logs in {logs}. End it, or give this one a "
                "folder of its own (launch.logs)."
            ) from None
        _end_left_behind(str(logs.resolve()), report)
        yield


def _end_left_behind(place: str, report: Callable[[str, str], None]) -> None:
    """Kill what an earlier launch of a folder of logs left behind.

    A launch that was itself started with that folder, as by a rehearsal, is no later one: those who
    carry the variable are its own warden and what was started beside it.
    """
    if os.environ.get(PLACE) == place:
        return
    found = _kill_while_there(lambda: _strays(f"{PLACE}={place}"))
    if found:
        listed = ", ".join(map(str, sorted(found)))
        text = f"killed {len(found)} processes that an earlier launch left behind: {listed}"
        report("launch", text)


def _kill_while_there(find: Callable[[], list[int]]) -> set[int]:
    """Kill what is found until there is nothing more; all that was found."""
    ends_s, found = time.monotonic() + _KILL_S, set[int]()
    while (left := find()) and time.monotonic() < ends_s:
        found.update(left)
        warden.kill(left)
        time.sleep(0.01)
    return found


def _strays(variable: str, session: int | None = None) -> list[int]:
    """Living processes of a session, or with a variable in their environment."""
    wanted = variable.encode()
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
