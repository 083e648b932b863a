"""One thread a GPU that makes driver calls, for processes that drive GPUs by themselves.

Whoever made the channel can see for how long a call has been in the driver (`busy_s`) and is told
what came of every wish. The daemon has a process a GPU instead (`daemon.holder`), which can be
killed.
"""

from __future__ import annotations

import math
import queue
import threading
from typing import TYPE_CHECKING

from voltana_actuatord.driving import GpuDriving, Result, Wish

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.drivers.port import Settable

__all__ = ["GpuChannel", "Result", "Wish"]


class GpuChannel:
    """Drives one GPU from a thread of its own.

    Args:
        gpu: The GPU.
        report: Called from the thread with every result.
    """

    def __init__(self, gpu: Settable, report: Callable[[Result], None]) -> None:
        self.uuid = gpu.uuid
        self._inbox = _ThreadInbox()
        self._driving = GpuDriving(gpu, self._inbox, report)
        self.clocks_mhz = self._driving.clocks_mhz
        self._thread = threading.Thread(target=self._driving.run, name=self.uuid, daemon=True)
        self._thread.start()

    @property
    def at_default(self) -> bool:
        """Whether the GPU is at its default clocks and no wish is under way."""
        return not self._driving.slot.state.marked and self._inbox.wish.clock_mhz is None

    def busy_s(self, now_s: float) -> float:
        """For how long the present driver call has been running; 0 if there is none.

        A thread that ended unasked will never finish anything: inf.
        """
        if not (self._thread.is_alive() or self._inbox.ended):
            return math.inf
        return self._driving.slot.busy_s(now_s)

    def ask(self, wish: Wish) -> None:
        """Replace the wish. Returns at once."""
        self._inbox.put(wish)

    def stop(self) -> None:
        """End the thread after the call that it is in; changes no clock."""
        self._inbox.end()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)


class _ThreadInbox:
    """The latest wish, between two threads; satisfies `driving.Inbox`."""

    def __init__(self) -> None:
        self.wish = Wish(None)
        self.ended = False
        self._woken = False
        self._token = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, wish: Wish) -> None:
        self.wish = wish
        if not self._woken:
            self._woken = True
            self._wake.put(None)

    def end(self) -> None:
        self.ended = True
        self._wake.put(None)

    def waiting(self, seconds: float | None) -> bool:
        """See `Inbox.waiting`."""
        if not self._token:
            try:
                self._wake.get(timeout=seconds)
            except queue.Empty:
                return False
            self._token = True
        return True

    def take(self) -> Wish | None:
        """See `Inbox.take`."""
        self._token = self._woken = False
        return None if self.ended else self.wish
