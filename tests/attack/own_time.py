"""Times of honest requests, without what neither the router nor a server had a hand in.

Other programs share the machine: the kernel tells for how long a thread could have run and was
given no core (``schedstat``), and that is taken off a request's time. Attack and honest use share
an event loop: so is the time that this loop came late to its work, when no answer could have been
noticed. Of all such times the longest counts, since they overlap. What a router computes, for
whomever, stays in: the promise (twice the quiet time) is held against that. Where the router runs
in that very loop, it is held to what the loop computed in one go as well, which would else be
hidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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


class Waiting:
    """For how long a process's thread could have run and was given no core.

    What the thread's own children took meanwhile is its own doing, and does not count.

    Args:
        pid: The process, which may end.
        thread: The thread; None is the first one.
    """

    def __init__(self, pid: int, thread: int | None = None) -> None:
        self._main = Path(f"/proc/{pid}/task/{thread or pid}")

    def seconds(self) -> float:
        """Since it was started, without what its children ran."""
        children: list[str] = []
        with contextlib.suppress(OSError):
            children = (self._main / "children").read_text().split()
        ran_ns = sum(_schedstat(Path(f"/proc/{child}"))[0] for child in children)
        return 1e-9 * (_schedstat(self._main)[1] - ran_ns)


def _schedstat(task: Path) -> tuple[int, int]:
    """Nanoseconds that a task ran, and that it waited for a core."""
    with contextlib.suppress(OSError):  # it has ended
        ran, waited, _ = (task / "schedstat").read_text().split()
        return int(ran), int(waited)
    return 0, 0


class Moment(NamedTuple):
    """When a request began: the time, and what each process had waited for a core by then."""

    at_s: float
    waited_s: tuple[float, ...]


def without_waiting_s(began: Moment, ended: Moment, late_s: float = 0.0) -> float:
    """Time between two moments, without the longest that one of the processes waited for a core.

    Args:
        began: The first.
        ended: The second, of the same processes.
        late_s: Other time that was lost to nobody's work, and overlaps with that.
    """
    lost_s = [end - begin for begin, end in zip(began.waited_s, ended.waited_s, strict=True)]
    return max(0.0, ended.at_s - began.at_s - max(0.0, late_s, *lost_s))


def moment(*waiting: Waiting) -> Moment:
    """This moment."""
    return Moment(time.perf_counter(), tuple(one.seconds() for one in waiting))


class OwnTime:
    """Takes times of requests; an asynchronous context.

    Args:
        pids: Processes that have to do with a request.

    Attributes:
        held_s: For how long at most this loop computed in one go.
    """

    def __init__(self, *pids: int) -> None:
        self._waiting = tuple(map(Waiting, pids))
        self.held_s = 0.0
        self._late: deque[tuple[float, float]] = deque(maxlen=KEPT)

    async def __aenter__(self) -> OwnTime:
        gc.collect()
        gc.freeze()  # no collection of all that a test process has loaded
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        gc.unfreeze()

    def now(self) -> Moment:
        """This moment."""
        return moment(*self._waiting)

    def taken_s(self, began: Moment) -> float:
        """Time since then, without what was lost to nobody's work."""
        return without_waiting_s(began, self.now(), self.late_s(began.at_s))

    def late_s(self, began_s: float) -> float:
        """For how long this loop was late for its work since a time."""
        late_s = 0.0
        for since_s, until_s in reversed(self._late):
            if until_s <= began_s:
                break
            late_s += until_s - max(since_s, began_s)
        return late_s

    async def _watch(self) -> None:
        while True:
            due_s, computed_s = time.perf_counter() + NAP_S, time.thread_time()
            await asyncio.sleep(NAP_S)
            now_s = time.perf_counter()
            computed_s = time.thread_time() - computed_s
            self.held_s = max(self.held_s, min(now_s - due_s, computed_s))
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
    least_turns: int = LEAST_TURNS

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
        if not (self.quiet_s and self.attacked_s):  # a machine without a free core
            return False
        quiet_s, attacked_s = p99(self.quiet_s), p99(self.attacked_s)
        return self.turns >= self.least_turns and attacked_s <= max(
            2.0 * quiet_s, quiet_s + added_s
        )

    def __str__(self) -> str:
        quiet_s, attacked_s = p99(self.quiet_s), p99(self.attacked_s)
        return (
            f"p99 {1e3 * quiet_s:.1f} ms quiet, {1e3 * attacked_s:.1f} ms beside the attack "
            f"({attacked_s / quiet_s:.2f} times), {len(self.attacked_s)} requests"
        )


async def stands(
    quiet: Callable[[], Awaitable[list[float]]],
    attacked: Callable[[], Awaitable[list[float]]],
    *,
    name: str = "",
    added_s: float = 0.0,
    turns: tuple[int, int] = (LEAST_TURNS, MOST_TURNS),
    check: Callable[[], None] = lambda: None,
) -> None:
    """Check that honest use does as well beside an attack as without: for every attack.

    The same honest use is measured in both, in the same run, in turns. Where an attack is made of
    requests that come many at once, the quiet turns hold as many honest ones at once in the same
    place: what is promised is that malice costs others no more than honesty, and a router that
    computes for eight clients answers each of them later than it would answer one.

    Args:
        quiet: Latencies of honest use in a quiet turn, in s.
        attacked: The same beside the attack.
        name: What it is called where it succeeds.
        added_s: See `Pairs.kept`.
        turns: Turns at least, and at most.
        check: Called after each pair of turns.

    Raises:
        AssertionError: If the promise is not kept within that many turns.
    """
    pairs = Pairs(least_turns=turns[0])
    for _ in range(turns[1]):
        await pairs.take(quiet(), attacked)
        check()
        if pairs.kept(added_s):
            return
    raise AssertionError(f"{name} {pairs}")


def p99(latency_s: list[float]) -> float:
    """Their 99th percentile; infinite if there is none."""
    return float(np.quantile(latency_s, 0.99)) if latency_s else np.inf
