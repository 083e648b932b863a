"""Times of honest requests as the client of a crowd measures them, without what is its own doing.

Attack, honest use and measurement share one event loop and a busy machine. When that loop comes to
its work late, no answer could have been noticed: such moments are taken off a request's time, and
the promise (twice the quiet time) is held against the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

NAP_S = 0.002
NOTED_S = 0.001
KEPT = 20_000

FLOOR_S = 0.02
"""What may be added to a 99th percentile of a few milliseconds: a turn of the other processes that
have to share two cores with the attack, the router and the servers."""


class OwnTime:
    """Sees when the event loop comes late to its work; an asynchronous context."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT)

    async def __aenter__(self) -> OwnTime:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def taken_s(self, began_s: float) -> float:
        """Time since then, as `time.perf_counter` has it, without what this process was late."""
        ended_s = time.perf_counter()
        late_s = 0.0
        for since_s, until_s in reversed(self._late):
            if until_s <= began_s:
                break
            late_s += until_s - max(since_s, began_s)
        return max(0.0, ended_s - began_s - late_s)

    async def _watch(self) -> None:
        while True:
            due_s = time.perf_counter() + NAP_S
            await asyncio.sleep(NAP_S)
            now_s = time.perf_counter()
            if now_s - due_s > NOTED_S:
                self._late.append((due_s, now_s))


def within_promise(quiet_s: float, attacked_s: float, added_s: float = FLOOR_S) -> bool:
    """Whether a 99th percentile beside an attack is within twice the quiet one.

    Args:
        quiet_s: The quiet one.
        attacked_s: That beside the attack.
        added_s: What the attack may add, if that is more.
    """
    return attacked_s <= max(2.0 * quiet_s, quiet_s + added_s)
