"""Runs a command line: one-line errors, exit codes, and readers that go away."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from typing import Any

import typer

from voltana.errors import VoltanaError
from voltana.garbage import look_seldom

USAGE_ERROR = 2
INTERRUPTED, TERMINATED = 130, 143
PIPE_CLOSED = 1
"""Nobody reads standard output any more; typer ends with the same code where it notices."""

_terminated = threading.Event()

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
"""What a full or broken disk says of standard output; files have errors of their own."""

_NO_WAY = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE})
"""What it says of a path that leads nowhere for this user: even to ask what lies there fails."""

_UsageError: type[Any] = typer.BadParameter.__mro__[2]
"""Base class of all usage errors; where it lives depends on typer's version."""


def run(app: typer.Typer, name: str) -> None:
    """Run a command line and end the process.

    An error that a user can cause is one line on standard error, and exit code 2; an interrupt is
    130, and SIGTERM 143 where `end_when_terminated` was called. Where the reader of standard output
    goes away, files are written all the same (commands write them before they print), and the code
    is 1.

    Args:
        app: The commands.
        name: Of the program.
    """
    _open_closed_streams()
    look_seldom()
    try:
        code = app(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        code = PIPE_CLOSED
    except OSError as error:
        code = _complain(name, _of_the_system(error))
    except VoltanaError as error:
        code = _complain(name, str(error))
    except _UsageError as error:
        code = _usage(name, error)
    except (KeyboardInterrupt, typer.Abort):
        _end_undisturbed()
        code = INTERRUPTED
    except MemoryError:
        code = _complain(name, "out of memory. Ask for a shorter run, or for fewer requests.")
    sys.exit(_interrupted(name) if code == INTERRUPTED else code)


def _of_the_system(error: OSError) -> str:
    """What an error of the system's says of what a user gave.

    Raises:
        OSError: The same, if it is nobody's but ours.
    """
    if error.errno in _NO_ROOM:
        _forget_output()
        return f"output cannot be written: {error.strerror}. Make room for it."
    if error.errno in _NO_WAY and error.filename is not None:
        return f"{str(error.filename)!r} cannot be used: {error.strerror}. Name another place."
    raise error


def _open_closed_streams() -> None:
    """Have every stream that who called has closed lead nowhere, in workers too.

    In their place the next files would be opened, and a library that writes to standard error would
    write into one of them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # at the least number that is free
            os.set_inheritable(nowhere, nowhere == number)
            setattr(sys, name, os.fdopen(nowhere, "w" if number else "r"))


def _end_undisturbed() -> None:
    """Let who interrupts again wait for the end, which is near, and get no traceback of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _interrupted(name: str) -> int:
    """Say by what, and give the code of that."""
    _end_undisturbed()  # typer makes an exit of an interrupt, which does not come by the way above
    code, said = (
        (TERMINATED, "terminated") if _terminated.is_set() else (INTERRUPTED, "interrupted")
    )
    sys.stderr.write(f"{name}: {said}\n")
    return code


def end_when_terminated() -> None:
    """Let SIGTERM end this process as an interrupt does: tidied up, one line, exit code 143."""

    def end(_number: int, _frame: object) -> None:
        _terminated.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def _usage(name: str, error: Any) -> int:
    if not sys.argv[1:] or type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message())  # the help of a command that was given nothing to do
        return USAGE_ERROR
    command = error.ctx.command_path if error.ctx else name
    return _complain(name, f"{_sentence(_with_value(error))} Run '{command} --help'.")


def _with_value(error: Any) -> str:
    """What typer says, with the value where its own text calls that "Input" alone."""
    said: str = error.format_message()
    parsing: Any = getattr(error.__cause__, "errors", list)()  # of pydantic, in newer typer
    return said.replace(": Input ", f": {parsing[0]['input']!r} ", 1) if parsing else said


def _sentence(text: str) -> str:
    return text if text.endswith(("?", "!", ".")) else f"{text}."


def _complain(name: str, text: str) -> int:
    """Say what is wrong in one line, whatever the text looks like."""
    sys.stderr.write(f"{name}: {' '.join(text.split())}\n")
    return USAGE_ERROR


def _forget_output() -> None:
    """Let nothing fail at the end because of what is still buffered for a reader that left."""
    with contextlib.suppress(OSError, ValueError):  # no file, so nothing is flushed into one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
