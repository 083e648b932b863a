"""Whether there is a driver: asked by a short-lived child, since the parent never loads it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from voltana_actuatord.errors import VoltanaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.drivers.port import GpuDriver

LIMIT_S = 3.0
"""A driver that takes longer hangs on some GPU; that must not keep the others from being lent."""


class DriverProbe:
    """Opens the driver in a child.

    Args:
        open_driver: Opens it.
        close: Closes what the child must not keep open.
        pause_s: How long the child waits first.
    """

    def __init__(
        self, open_driver: Callable[[], GpuDriver], close: Callable[[], None], pause_s: float = 0.0
    ) -> None:
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        self._ends_s = time.monotonic() + pause_s + LIMIT_S
        self.done = False
        self.problem = ""
        self.pid = os.fork()
        if self.pid == 0:
            _probe(open_driver, writer, close, pause_s)
        os.close(writer)

    def look(self) -> None:
        """See whether the answer is there: `done`, and `problem` if there is no driver."""
        if self.done:
            return
        found, status = os.waitpid(self.pid, os.WNOHANG)
        if found:
            self.done = True
            if os.waitstatus_to_exitcode(status) == 3:
                self.problem = os.read(self._reader, 1000).decode(errors="replace")
            os.close(self._reader)
        elif time.monotonic() > self._ends_s:
            self.done = True
            self.end()
            os.close(self._reader)

    def end(self) -> None:
        """Kill the child."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _probe(
    open_driver: Callable[[], GpuDriver], writer: int, close: Callable[[], None], pause_s: float
) -> None:
    status = 0
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        close()
        time.sleep(pause_s)
        try:
            open_driver().close()
        except VoltanaError as error:
            os.write(writer, str(error).encode()[:800])
            status = 3
    finally:
        os._exit(status)
