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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAP_S = 0.002
NOTED_S = 0.001
KEPT = 20_000

LEAST_TURNS, MOST_TURNS = 2, 10
"""More turns than the least are taken only while there is a doubt."""

HEAVY_S = 0.02
"""What an attack may add to a 99th percentile of a few milliseconds where megabytes have to be
moved or hundreds of connections accepted: that is the kernel's work, on cores that honest clients
and servers share."""


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


@dataclass
class Pairs:
    """Latencies of honest requests in s, quiet ones and those beside an attack, taken in turns.

    Other programs come and go on a test machine: all of the one are held against all of the other.
    """

    quiet_s: list[float] = field(default_factory=list)
    attacked_s: list[float] = field(default_factory=list)
    turns: int = 0

    async def take(
        self, quiet: Awaitable[list[float]], attacked: Callable[[], Awaitable[list[float]]]
    ) -> None:
        """One more of each."""
        self.quiet_s += await quiet
        self.attacked_s += await attacked()
        self.turns += 1

    def kept(self, added_s: float) -> bool:
        """Whether the promise is kept: a 99th percentile within twice the quiet one.

        Args:
            added_s: What an attack of this nature may add, if that is more.
        """
        quiet_s, attacked_s = p99(self.quiet_s), p99(self.attacked_s)
        return self.turns >= LEAST_TURNS and attacked_s <= max(2.0 * quiet_s, quiet_s + added_s)

    def __str__(self) -> str:
        quiet_s, attacked_s = p99(self.quiet_s), p99(self.attacked_s)
        return (
            f"p99 {1e3 * quiet_s:.1f} ms quiet, {1e3 * attacked_s:.1f} ms beside the attack "
            f"({attacked_s / quiet_s:.2f} times), {len(self.attacked_s)} requests"
        )


def p99(latency_s: list[float]) -> float:
    """Their 99th percentile."""
    return float(np.quantile(latency_s, 0.99))
