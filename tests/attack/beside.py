"""Honest use beside an attack: nothing of it lost, and little later than without."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from tests.attack.own_time import MOST_TURNS, OwnTime, Pairs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HELD_S = 0.1
"""What attack, honest use and what serves them may compute in one go: twice what is promised of the
last alone."""


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
    added_s: float = 0.0,
) -> None:
    """Check that honest requests do as well beside an attack as without.

    Args:
        ask: An honest request; whether it was answered as it should be.
        attack: Runs until it is cancelled, or ends early.
        requests: Honest requests of a measurement.
        added_s: See `Pairs.kept`.

    Raises:
        AssertionError: If one is lost, or their p99 is beyond twice that of a quiet time.
    """

    async def attacked() -> list[float]:
        attacking = asyncio.create_task(_again_and_again(attack))
        await asyncio.sleep(0.05)
        try:
            return await latencies_s(ask, requests)
        finally:
            attacking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attacking  # raises what the attack itself has found

    pairs = Pairs()
    for _ in range(MOST_TURNS):
        await pairs.take(latencies_s(ask, requests), attacked)
        if pairs.kept(added_s):
            return
    raise AssertionError(str(pairs))


async def _again_and_again(attack: Callable[[], Awaitable[None]]) -> None:
    while True:
        await attack()
        await asyncio.sleep(0)
