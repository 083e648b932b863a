"""Honest use beside an attack: nothing of it lost, and little later than without."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from tests.attack.own_time import OwnTime, stands

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

HELD_S = 0.1
"""What attack, honest use and what serves them may compute in one go: twice what is promised of the
last alone."""


@contextlib.asynccontextmanager
async def going_on(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Something goes on meanwhile; what it raises is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def latencies_s(ask: Callable[[], Awaitable[bool]], requests: int) -> list[float]:
    """Times of honest requests, one after the other; none may fail.

    What answers them shares this loop, so the loop is held to what it computes in one go.
    """
    taken = []
    async with OwnTime(os.getpid()) as own:
        for _ in range(requests):
            began = own.now()
            assert await ask(), "an honest request was lost"
            taken.append(own.taken_s(began))
            await asyncio.sleep(0.002)
    assert own.held_s < HELD_S, f"the loop computed for {own.held_s:.3f} s in one go"
    return taken


async def stands_beside(
    ask: Callable[[], Awaitable[bool]],
    attack: Callable[[], Awaitable[None]],
    requests: int = 100,
    than: Callable[[], Awaitable[None]] | None = None,
    added_s: float = 0.0,
) -> None:
    """Check that honest requests do as well beside an attack as without.

    Args:
        ask: An honest request; whether it was answered as it should be.
        attack: Runs until it is cancelled, or ends early.
        requests: Honest requests of a measurement.
        than: What goes on in the quiet turns: the same use of the machine without the malice.
        added_s: What an attack of this nature may add, if that is more (see `Pairs.kept`).

    Raises:
        AssertionError: If one is lost, or their p99 is beyond twice that of a quiet time.
    """

    async def measured(meanwhile: Callable[[], Awaitable[None]]) -> list[float]:
        async with going_on(_again_and_again(meanwhile)):
            await asyncio.sleep(0.05)
            return await latencies_s(ask, requests)

    async def quiet() -> list[float]:
        return await (latencies_s(ask, requests) if than is None else measured(than))

    await stands(quiet, lambda: measured(attack), added_s=added_s)


async def _again_and_again(attack: Callable[[], Awaitable[None]]) -> None:
    while True:
        await attack()
        await asyncio.sleep(0)
