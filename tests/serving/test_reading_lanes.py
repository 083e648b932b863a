"""Who waits for a child that reads long bodies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from voltana.serving.router.reading import PATIENCE, _Lane, _Watch

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 0.1


class Child:
    async def stop(self) -> None: ...


def order(sizes: list[int], *, shortest_first: bool) -> list[int]:
    """In which order bodies that came so are read by one child."""

    async def read() -> list[int]:
        done: list[int] = []
        lane = _Lane([Child()], shortest_first=shortest_first)  # type: ignore[list-item]

        async def one(size: int) -> None:
            child = await lane.take(size)
            done.append(size)
            await asyncio.sleep(0)
            lane.give(child)

        tasks = [asyncio.create_task(one(size)) for size in [0, *sizes]]
        await asyncio.sleep(0)
        gone = asyncio.create_task(one(1))  # a client that leaves while it waits
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*tasks)
        assert lane._idle  # nobody has taken the child along
        return done[1:]

    return asyncio.run(read())


def test_the_shortest_goes_first_where_none_is_long_and_else_who_came_first() -> None:
    assert order([500, 100, 900, 100], shortest_first=True) == [100, 100, 500, 900]
    assert order([500, 100, 900], shortest_first=False) == [500, 100, 900]


def test_a_child_that_is_given_to_a_client_that_leaves_is_not_lost() -> None:
    async def check() -> None:
        lane = _Lane([Child()], shortest_first=True)  # type: ignore[list-item]
        child = await lane.take(1)
        waits = asyncio.create_task(lane.take(1))
        await asyncio.sleep(0)
        lane.give(child)  # it has it, and does not know it yet
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        async with asyncio.timeout(1):
            assert await lane.take(1) is child

    asyncio.run(check())


async def read_for_ever(processor_s: Callable[[], float]) -> None:
    async with asyncio.timeout(None) as limit:
        watch = _Watch(processor_s, LIMIT_S, limit)
        try:
            await asyncio.sleep(60.0)
        finally:
            watch.end()


async def ended_after_s(processor_s: Callable[[], float]) -> float:
    """When a reading is ended that would go on for ever."""
    began_s = time.perf_counter()
    with pytest.raises(TimeoutError):
        await read_for_ever(processor_s)
    return time.perf_counter() - began_s


def test_a_reading_is_ended_by_what_it_computed_and_at_last_by_the_time() -> None:
    async def check() -> None:
        assert LIMIT_S <= await ended_after_s(time.perf_counter) < PATIENCE * LIMIT_S
        assert await ended_after_s(lambda: 0.0) >= PATIENCE * LIMIT_S
        half_began_s = time.perf_counter()
        taken_s = await ended_after_s(lambda: 0.5 * (time.perf_counter() - half_began_s))
        assert taken_s >= 2.0 * LIMIT_S

    asyncio.run(check())


def test_a_child_that_was_started_anew_has_computed_nothing_yet() -> None:
    """The one before had computed for an hour."""

    async def check() -> None:
        began_s, told = time.perf_counter(), [3600.0]

        def processor_s() -> float:
            return told.pop() if told else time.perf_counter() - began_s

        assert LIMIT_S <= await ended_after_s(processor_s) < PATIENCE * LIMIT_S

    asyncio.run(check())
