"""Honest use beside an attack: nothing of it lost, and little later than without."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from tests.attack.own_time import OwnTime, within_promise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 4
"""A shared machine is noisy: the promise must hold in one of so many rounds."""


async def p99_s(ask: Callable[[], Awaitable[bool]], requests: int) -> float:
    """The 99th percentile of the time of honest requests, one after the other; none may fail."""
    taken = []
    async with OwnTime() as own:
        for _ in range(requests):
            began_s = time.perf_counter()
            assert await ask(), "an honest request was lost"
            taken.append(own.taken_s(began_s))
            await asyncio.sleep(0.002)
    return sorted(taken)[int(0.99 * (len(taken) - 1))]


async def stands_beside(
    ask: Callable[[], Awaitable[bool]],
    attack: Callable[[], Awaitable[None]],
    requests: int = 150,
) -> None:
    """Check that honest requests do as well beside an attack as without.

    Args:
        ask: An honest request; whether it was answered as it should be.
        attack: Runs until it is cancelled, or ends early.
        requests: Honest requests of a measurement.

    Raises:
        AssertionError: If one is lost, or their p99 is beyond twice that of a quiet time.
    """
    seen = []
    for _ in range(ROUNDS):
        quiet_s = await p99_s(ask, requests)
        attacking = asyncio.create_task(_again_and_again(attack))
        await asyncio.sleep(0.05)
        try:
            attacked_s = await p99_s(ask, requests)
        finally:
            attacking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attacking  # raises what the attack itself has found
        seen.append((quiet_s, attacked_s))
        if within_promise(quiet_s, attacked_s):
            return
    raise AssertionError(f"p99 in s, quiet and beside the attack: {seen}")


async def _again_and_again(attack: Callable[[], Awaitable[None]]) -> None:
    while True:
        await attack()
        await asyncio.sleep(0)
