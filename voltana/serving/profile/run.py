"""Drives one live server through the points of a design and collects what its iterations took.

Prefill and decode servers are measured alone, which is their dialect's affair.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from voltana.errors import VoltanaError
from voltana.values import Outcome, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.serving.profile.design import Limits, Point
    from voltana.values import Load

DECODE_STEPS = 24
"""Tokens that each request of a decode point produces; the first steps still fill the batch."""

_SETTLE_S = 0.2
"""From a clock that was asked for to the first request."""


class ProfileRunError(VoltanaError):
    """The server cannot be profiled."""


class Iteration(NamedTuple):
    """One iteration as the engine's plugin measured it."""

    load: Load
    latency_s: float


class Iterations(Protocol):
    """Where measured iterations come from."""

    def drain(self) -> Iterable[Iteration]:
        """What was measured since the last call."""
        ...


class Clock(Protocol):
    """Who sets the clock while a server is profiled."""

    def set(self, clock_mhz: float) -> float:
        """Ask for a clock, wait until it is there, and return the one that was achieved."""
        ...

    def hold(self) -> None:
        """Say that the last clock is still wanted."""
        ...


class About(NamedTuple):
    """What a server says of itself."""

    model: str
    version: str
    role: str
    tensor_parallel: int
    vocabulary: int
    limits: Limits


class ProfiledServer(Protocol):
    """A live server, unified, prefill or decode; an engine's dialect implements it."""

    @property
    def about(self) -> About:
        """What it says of itself."""
        ...

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What it computes."""
        ...

    def run(self, point: Point) -> None:
        """Send the requests of a point, and wait for their answers.

        Raises:
            ProfileRunError: If the server refuses them.
        """
        ...


def measure(
    server: ProfiledServer,
    points: Iterable[Point],
    iterations: Iterations,
    clock: Clock | None,
    advance: Callable[[], None],
) -> list[list[Outcome]]:
    """Run every point and collect the iterations of its phase, at the clocks achieved.

    Args:
        server: The server.
        points: What to run, in order.
        iterations: What it measures.
        clock: Sets the clock; None leaves it, and counts it as what the points name.
        advance: Called after each point.

    Returns:
        The iterations of each point, in the order of the points.
    """
    outcomes: list[list[Outcome]] = []
    for point in points:
        achieved_mhz = point.clock_mhz if clock is None else clock.set(point.clock_mhz)
        time.sleep(_SETTLE_S)
        list(iterations.drain())
        _run_and_hold(server, point, clock)
        time.sleep(_SETTLE_S)
        outcomes.append(
            [
                Outcome(
                    load=iteration.load,
                    clock_mhz=achieved_mhz,
                    latency_s=iteration.latency_s,
                    ended_at_s=time.monotonic(),
                )
                for iteration in iterations.drain()
                if iteration.load.phase is point.phase
            ]
        )
        advance()
    return outcomes


def _run_and_hold(server: ProfiledServer, point: Point, clock: Clock | None) -> None:
    """Renew the lease of the clock while a point runs."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(server.run, point)
        while not running.done():
            if clock is not None:
                clock.hold()
            time.sleep(_SETTLE_S)
        running.result()
