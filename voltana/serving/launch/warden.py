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

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

ALONE_GRACE_S = 4.0
"""Where the launch is gone a process gets no longer than this: nobody waits for it any more."""

NOW = signal.SIGUSR1
"""Kill everything at once."""

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_HEARD = frozenset({*_ENDING, signal.SIGCHLD, NOW})
_KILL_S = 10.0
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


def processes() -> dict[int, tuple[str, int, int]]:
    """State, parent and session of every process that is there."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (plain strings, and many)
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="latin-1") as file:  # noqa: PTH123
                    state, parent, _, session = file.read().rpartition(")")[2].split()[:4]
                found[int(name)] = state, int(parent), int(session)
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL to all that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _kill_descendants() -> None:
    """Kill all descendants, and reap those whose own parent has died, until there are none."""
    ends_s = time.monotonic() + _KILL_S  # one in the kernel's hands ends when that lets go of it
    while time.monotonic() < ends_s:
        kill(_descendants())
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.005)
            continue
        return  # no child, and so no descendant, is left


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, (_, parent, _) in processes().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    level = children.get(os.getpid(), [])
    while level:
        found += level
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
            kill([child])
            ends_s = _FOREVER_S
        left_s = min(max(0.0, ends_s - time.monotonic()), 60.0)
        ready, _, _ = select.select(watched, [], [], left_s)
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
    return bool(select.select([pipe], [], [], 0.0)[0])


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
