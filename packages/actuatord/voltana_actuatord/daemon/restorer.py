"""Short-lived processes that restore marked GPUs, one a GPU, because the driver may hang.

They are forked by a parent that has never loaded the driver, so that starting one takes
milliseconds; each is killed if it does not end in time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.notify import notify
from voltana_actuatord.daemon.privileges import die_with_parent
from voltana_actuatord.daemon.restore import restore_marked
from voltana_actuatord.faults import DriverError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from voltana_actuatord.daemon.journal import Journal

LIMITS_S = (0.12, 0.6, 1.2)
"""How long the first, second and third try may take: a sound driver needs some 50 ms, one
that has to wake its GPUs a second."""


DEATH_LIMIT_S = 0.1
"""How long a killed child may take to be gone, unless it is inside the kernel."""


class Restorers:
    """Starts, awaits and kills restoring processes.

    Args:
        journal: What is locked.
        close: Descriptors that a child must not keep open.
    """

    def __init__(self, journal: Journal, close: Sequence[int] = ()) -> None:
        self._journal = journal
        self._close = tuple(close)
        self._stuck: dict[str, int] = {}

    def restore(
        self, limits_s: Sequence[float] = LIMITS_S, only: Collection[str] | None = None
    ) -> set[str]:
        """Restore what is marked, with a try for every limit.

        Args:
            limits_s: How long each try may take.
            only: UUIDs to restrict this to; a running worker owns the other marks.

        Returns:
            UUIDs, of those, of the GPUs that are still marked.
        """
        for limit_s in limits_s:
            self._reap()
            marked = self._marked(only) - self._stuck.keys()
            if not marked:
                break
            notify("WATCHDOG=1")
            self._await({self._fork(uuid): uuid for uuid in sorted(marked)}, limit_s)
        return self._marked(only)

    def _marked(self, only: Collection[str] | None) -> set[str]:
        return {uuid for uuid in self._journal.marked() if only is None or uuid in only}

    def _fork(self, uuid: str) -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL)
            for descriptor in self._close:
                os.close(descriptor)
            status = _restore_one(self._journal, uuid)
        finally:
            os._exit(status)

    def _await(self, children: dict[int, str], limit_s: float) -> None:
        ends_s = time.monotonic() + limit_s
        while children and time.monotonic() < ends_s:
            for pid in [pid for pid in children if _ended(pid)]:
                del children[pid]
            time.sleep(0.002)
        for pid, uuid in children.items():
            os.kill(pid, signal.SIGKILL)
            self._stuck[uuid] = pid
        ends_s = time.monotonic() + DEATH_LIMIT_S
        while self._stuck and time.monotonic() < ends_s:
            time.sleep(0.002)
            self._reap()

    def _reap(self) -> None:
        """Forget killed children that are gone; one that is inside the kernel stays stuck."""
        self._stuck = {uuid: pid for uuid, pid in self._stuck.items() if not _ended(pid)}


def _restore_one(journal: Journal, uuid: str) -> int:
    log = Log("restorer")
    try:
        failures = restore_marked(journal, [uuid])
    except (DriverError, OSError) as error:
        log(str(error))
        return 1
    for text in failures.values():
        log(text)
    return 1 if failures else 0


def _ended(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
