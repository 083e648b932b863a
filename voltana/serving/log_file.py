"""The log of agents and routers: standard error, for whose reader nobody waits.

A service manager, or a pipe to one, that stands still would hold up the event loop at the next
line, and with it every request.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, cast

from voltana_actuatord.stderr import STDERR, never_wait, write_line

if TYPE_CHECKING:
    from typing import TextIO


class LogFile:
    """What structlog writes to; drops what would have to wait, and says later how much that was."""

    def __init__(self) -> None:
        self._dropped = 0

    def write(self, text: str) -> int:
        """Write a line, if that does not wait."""
        with contextlib.suppress(OSError):  # it was closed
            os.set_blocking(STDERR, False)  # uvloop has children undo that, with whom it is shared
        if self._dropped:
            told = {"level": "warning", "event": "lines of the log were dropped"}
            said = json.dumps(told | {"lines": self._dropped})
            if write_line(f"{said}\n".encode()):
                self._dropped = 0
        self._dropped += not write_line(text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: all of it is written at once."""


def log_file() -> TextIO:
    """Standard error, on which nothing of this process waits from now on.

    Where something else stands in its place, as in a notebook, that is left as it is.
    """
    try:
        ours = sys.stderr.fileno() == STDERR
    except (AttributeError, OSError):  # it was closed, or is no file
        ours = sys.stderr is None
    if not ours:
        return sys.stderr
    never_wait()
    return cast("TextIO", LogFile())  # all of it that a printing logger uses
