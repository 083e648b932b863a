"""The launch's own part in leaving nothing behind: the pipe of its wardens, and what lost one.

Who kills a launch and all its wardens in one moment (``pkill -9 -f voltana``) leaves behind what
its processes had started. It is found by variables in its environment, and ended when a launch
with the same folder of logs starts next. Variables are copied, as by an operator who starts an
engine as the launch did to look at it: nothing is killed whose session is led by somebody without
them, such as his shell, nor what lives in another container, whose folders are others of the same
names, nor what belongs to a launch that lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.serving.launch import warden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from voltana.serving.launch.warden import Process

MARK = "VOLTANA_LAUNCHED"
"""Environment variable by which the descendants of one process are known, whatever became of it."""

PLACE = "VOLTANA_LAUNCH_LOGS"
"""Environment variable that says to which launch a process belongs: its folder of logs."""

LAUNCH = "VOLTANA_LAUNCH"
"""Environment variable that names the very launch, by its process and when that began."""

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


def environment(logs: Path, mark: str) -> dict[str, str]:
    """The variables by which what a process of this launch starts is found.

    Args:
        logs: The launch's folder of logs.
        mark: Of that process alone.
    """
    return {MARK: mark, PLACE: str(logs.resolve()), LAUNCH: _name_of(os.getpid())}


def end_strays(session: int, mark: str) -> None:
    """Kill what lost its warden.

    Args:
        session: That of the warden, which has ended and was not waited for yet: afterwards its
            number may be another's.
        mark: Value of `MARK` in the environment of its descendants.
    """
    _kill_while_there(lambda: _strays(MARK, mark, session))


@contextlib.contextmanager
def sole_launch(logs: Path, report: Callable[[str, str], None]) -> Iterator[None]:
    """Be the only launch with a folder of logs; what an earlier one left behind is killed first.

    Args:
        logs: The folder; made if absent.
        report: Told the name and a line of text if there was something.

    Raises:
        ConfigError: If another launch lives there, or the folder cannot be used.
    """
    lock = _locked(logs)
    try:
        _end_left_behind(str(logs.resolve()), report)
        yield
    finally:
        os.close(lock)


def _locked(logs: Path) -> int:
    """The open lock of a folder, which nobody else has.

    Raises:
        ConfigError: If another launch has it, or it cannot be had there.
    """
    # No link is followed, and no pipe waited for. Others must not open it: reading it is enough to
    # hold it for ever.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        logs.mkdir(parents=True, exist_ok=True)
        _check_folder(logs)
        lock = os.open(logs / _LOCK, flags, 0o600)
    except OSError as error:
        raise _unusable(logs, error.strerror or str(error)) from None
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise _unusable(logs, f"{_LOCK} in it is no plain file")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _another(logs, "") from None
    except OSError as error:
        os.close(lock)
        raise _unusable(logs, f"it cannot be locked: {error.strerror}") from None
    except ConfigError:
        os.close(lock)
        raise
    return lock


def _check_folder(logs: Path) -> None:
    """Whoever may write there may have logs written anywhere, by a link in the place of one.

    Raises:
        ConfigError: If somebody else owns it, or everybody may write to it.
    """
    found = logs.stat()
    if found.st_uid not in {0, os.geteuid()}:
        raise _unusable(logs, f"user {found.st_uid} owns it")
    if found.st_mode & stat.S_IWOTH:
        raise _unusable(logs, "everybody may write to it")


def _unusable(logs: Path, why: str) -> ConfigError:
    return ConfigError(
        f"launch.logs = {str(logs)!r} cannot be used: {why}. Name a folder of this user's that "
        "nobody else writes to."
    )


def _another(logs: Path | str, who: str) -> ConfigError:
    return ConfigError(
        f"another launch{who} is running with the logs in {logs}. End it, or give this one a "
        "folder of its own (launch.logs)."
    )


def _end_left_behind(place: str, report: Callable[[str, str], None]) -> None:
    """Kill what an earlier launch of a folder of logs left behind.

    A launch that was itself started with that folder, as by a rehearsal, is no later one: those who
    carry the variable are its own warden and what was started beside it.

    Raises:
        ConfigError: If what is found belongs to a launch that lives, whose lock was removed.
    """
    if os.environ.get(PLACE) == place:
        return
    if warden.process_of(os.getpid()) is None:
        report("launch", "/proc is hidden here: what an earlier launch left behind is not found")
        return
    for pid in _strays(PLACE, place):
        launch = _value(pid, LAUNCH) or ""
        number = launch.partition(":")[0]
        if number.isdecimal() and len(number) < 10 and launch == _name_of(int(number)):
            raise _another(place, f" (process {number})")
    found = _kill_while_there(lambda: _strays(PLACE, place))
    if found:
        listed = ", ".join(map(str, sorted(found)))
        text = f"killed {len(found)} processes that an earlier launch left behind: {listed}"
        report("launch", text)


def _kill_while_there(find: Callable[[], dict[int, Process]]) -> set[int]:
    """Kill what is found until there is nothing more; all that was found."""
    ends_s, found = time.monotonic() + _KILL_S, set[int]()
    while (left := find()) and time.monotonic() < ends_s:
        found.update(left)
        warden.kill(left)
        time.sleep(0.01)
    return found


def _strays(name: str, value: str, session: int | None = None) -> dict[int, Process]:
    """Living processes of a session, or with a variable in their environment that is their own."""
    there = warden.processes()
    mounts = _mounts(os.getpid())
    return {
        pid: process
        for pid, process in there.items()
        if process.state != "Z"
        and pid != os.getpid()
        and (
            process.session == session
            or (
                _value(pid, name) == value
                and _mounts(pid) == mounts
                and not _is_somebodys(process, there, name, value)
            )
        )
    }


def _is_somebodys(process: Process, there: dict[int, Process], name: str, value: str) -> bool:
    """Whether the leader of its session lives without the variable: it was copied, as by a shell.

    What a launch starts is in sessions of its wardens, or of what these have started.
    """
    leader = there.get(process.session)
    outside = process.session == 0
    lives = leader is not None and leader.state != "Z"
    return outside or (lives and _value(process.session, name) != value)


def _value(pid: int, name: str) -> str | None:
    """A variable of the environment with which a process began; None if it has none."""
    begin = f"{name}=".encode()
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is somebody else's
        return None
    found = (pair[len(begin) :] for pair in pairs if pair.startswith(begin))
    value = next(found, None)
    return None if value is None else os.fsdecode(value)


def _mounts(pid: int) -> str | None:
    """Which files a process sees; None if that is not known."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115  (no path is in it)
    except OSError:
        return None


def _name_of(pid: int) -> str:
    """A process, told from all that have its number before or after; empty if there is none."""
    process = warden.process_of(pid)
    return "" if process is None or process.state == "Z" else f"{pid}:{process.began}"
