"""Stands between a launch and one of its processes, and lets nothing of that outlive the launch.

Run as a program by its path, with the standard library alone: ``warden.py PIPE GRACE_S COMMAND``.
The launch holds the other end of PIPE, which closes however the launch ends, at whatever moment.
Then, or on SIGTERM, the process is asked to end; once it has ended, or after GRACE_S, or on
SIGUSR1, whatever it has left is killed. Its descendants cannot leave: as a subreaper the warden
becomes the parent of those whose own has died, in sessions of their own or not. Should the warden
itself be killed, the kernel kills its process, and the launch the rest (`strays.py`); should it be
stopped, the kernel has it go on when the launch ends.

It ends as its process did, so that the launch sees that one's status.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

ALONE_GRACE_S = 4.0
"""Where the launch is gone a process gets no longer than this: nobody waits for it any more."""

NOW = signal.SIGUSR1
"""Kill everything at once."""

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_HEARD = frozenset({*_ENDING, signal.SIGCHLD, NOW})
_KILL_S = 10.0
_BLIND_S = 0.2
"""Time for what ends by itself, where ``/proc`` is hidden and nothing else can be named."""

_FOREVER_S = 1e9


def main(arguments: list[str]) -> None:
    """Run a command until it ends, or is to end."""
    pipe, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)  # one that was stopped goes on when the launch ends
    wake = _signals_as_bytes()
    os.set_inheritable(pipe, False)
    if _is_closed(pipe):
        raise SystemExit(0)  # the launch died while this began
    child = _start(command)
    status = _watch(child, pipe, wake, grace_s)
    _kill_descendants()
    _end_as(status)


class Process(NamedTuple):
    """A process that is there.

    Attributes:
        state: One letter, of proc(5).
        parent: Its parent.
        session: The session that it is in; 0 where its leader is outside this container.
        began: Ticks from boot to its start, which tell it from one that had its number before.
    """

    state: str
    parent: int
    session: int
    began: int


def processes() -> dict[int, Process]:
    """Every process that is there; none, not even this one, where ``/proc`` is hidden."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208  (plain strings, and many)
            if name.isdigit() and (process := process_of(int(name))):
                found[int(name)] = process
    return found


def process_of(pid: int) -> Process | None:
    """The process of that number now; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        return Process(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def kill(found: dict[int, Process]) -> None:
    """SIGKILL to all that are still there, and to none that has the number of one by now."""
    for pid, process in found.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = _handle(pid)
            try:
                now = process_of(pid)
                if now is None or now.began != process.began:
                    continue
                if handle is None:
                    os.kill(pid, signal.SIGKILL)
                else:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                if handle is not None:
                    os.close(handle)


def _handle(pid: int) -> int | None:
    """What stays with a process whoever gets its number next; None where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # a kernel before 5.3, or no descriptor is left
        return None


def _kill_descendants() -> None:
    """Kill all descendants, and reap those whose own parent has died, until there are none."""
    ends_s = time.monotonic() + _KILL_S  # one in the kernel's hands ends when that lets go of it
    blind_s = time.monotonic() + _BLIND_S
    while time.monotonic() < ends_s:
        found = processes()
        kill(_descendants(found))
        if os.getpid() not in found and time.monotonic() > blind_s:
            os.killpg(0, signal.SIGKILL)  # nobody can be named: at least who is in this group
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.005)
            continue
        return  # no child, and so no descendant, is left


def _descendants(there: dict[int, Process]) -> dict[int, Process]:
    children: dict[int, list[int]] = {}
    for pid, process in there.items():
        children.setdefault(process.parent, []).append(pid)
    found: dict[int, Process] = {}
    level = children.get(os.getpid(), [])
    while level:
        found |= {pid: there[pid] for pid in level}
        level = [pid for parent in level for pid in children.get(parent, ())]
    return found


def _signals_as_bytes() -> int:
    """Have signals arrive as bytes of a pipe, none of them lost before it is read."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _HEARD:
        signal.signal(number, lambda *_: None)
    return read


def _start(command: list[str]) -> int:
    """Start the command; it is killed with this process, whenever that ends."""
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        return child
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before the line above
        signal.set_wakeup_fd(-1)
        for number in _HEARD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def _watch(child: int, pipe: int, wake: int, grace_s: float) -> int:
    """Wait for the end of the command, and see to it; its status."""
    ends_s, watched = _FOREVER_S, [pipe, wake]
    while True:
        _reap_strays(child)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() >= ends_s:
            os.kill(child, signal.SIGKILL)  # its number is its own until it is waited for
            ends_s = _FOREVER_S
        left_s = min(max(0.0, ends_s - time.monotonic()), 60.0)
        ready = _readable(watched, left_s)
        numbers = set(os.read(wake, 64)) if wake in ready else set()
        given_s = None
        if pipe in ready:
            watched, given_s = [wake], min(grace_s, ALONE_GRACE_S)
        elif numbers & _ENDING:
            given_s = grace_s
        if given_s is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            ends_s = min(ends_s, time.monotonic() + given_s)
        if NOW in numbers:
            ends_s = 0.0


def _reap_strays(child: int) -> None:
    """Reap what was left by others and has ended; the command itself is waited for elsewhere."""
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in {0, child}:
                return
            os.waitpid(found.si_pid, os.WNOHANG)


def _is_closed(pipe: int) -> bool:
    """Whether nobody holds the other end any more; nobody ever writes to it."""
    return bool(_readable([pipe], 0.0))


def _readable(handles: list[int], seconds: float) -> set[int]:
    """Which can be read, or have ended; `select.select` fails for descriptors above 1023."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(1e3 * seconds)}


def _end_as(status: int) -> None:
    """End as a process of that status did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its own core is not this one's
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
