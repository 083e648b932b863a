"""Whether the machine itself stood still: a thread that naps, and sees when it wakes late.

What a busy host withholds from everybody is no fault of what is tested: such a measurement is made
again, and never counted as kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque

NAP_S = 0.005
NOTED_S = 0.02
"""How much later than asked for it has to wake before that counts."""

KEPT = 10_000


class StallWatch:
    """Watches until it is closed."""

    def __init__(self) -> None:
        self._stalls: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stalled_s(self, since_s: float, until_s: float) -> float:
        """For how long the machine stood still between two times of the monotonic clock."""
        return sum(
            max(0.0, min(end_s, until_s) - max(began_s, since_s)) for began_s, end_s in self._stalls
        )

    def close(self) -> None:
        """Stop watching."""
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ending.is_set():
            due_s = time.monotonic() + NAP_S
            time.sleep(NAP_S)
            now_s = time.monotonic()
            if now_s - due_s > NOTED_S:
                self._stalls.append((due_s, now_s))
