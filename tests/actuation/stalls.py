"""Whether the machine itself withheld processors: what the kernel counts as CPU pressure, by time.

What a busy host withholds from everybody is no fault of what is tested: such a measurement is made
again, and never counted as kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")
EVERY_S = 0.02
KEPT = 10_000


class StallWatch:
    """Watches until it is closed.

    Attributes:
        seeing: False where the kernel does not count it.
    """

    def __init__(self) -> None:
        self._counts: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seeing = PRESSURE.exists()
        if self.seeing:
            self._thread.start()

    def stalled_s(self, since_s: float, until_s: float) -> float:
        """How long, between two monotonic times, a task waited that could have run."""
        counts = tuple(self._counts)  # at once: the other thread goes on adding
        inside = [count_s for at_s, count_s in counts if since_s <= at_s <= until_s]
        return inside[-1] - inside[0] if inside else 0.0

    def close(self) -> None:
        """Stop watching."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ending.is_set():
            self._counts.append((time.monotonic(), _waited_s()))
            self._ending.wait(EVERY_S)


def _waited_s() -> float:
    """Seconds since boot in which some task waited for a processor."""
    some = PRESSURE.read_text().splitlines()[0]
    return 1e-6 * int(some.rpartition("total=")[2])
