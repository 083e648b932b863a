"""The gate of fake servers holds work for as long as it is closed, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.serving.router_client import until
from tests.serving.work_gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run(check: Callable[[Gate], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await check(Gate())

    asyncio.run(limited())


def test_work_stands_before_a_closed_gate_until_it_is_opened() -> None:
    async def check(gate: Gate) -> None:
        assert gate.is_open
        assert await gate.work(0.0)
        gate.close(after=2)
        assert not gate.is_open
        works = [asyncio.create_task(gate.work(0.0)) for _ in range(5)]
        await until(lambda: gate.waiting == 3)
        assert sum(task.done() for task in works) == 2
        gate.open()
        assert gate.waiting == 0
        gate.close()  # what stood before it goes all the same
        assert await asyncio.gather(*works) == [True] * 5

    run(check)


def test_who_is_told_to_stop_does_not_stand_there() -> None:
    async def check(gate: Gate) -> None:
        stop = asyncio.Event()
        gate.close()
        work = asyncio.create_task(gate.work(0.0, stop))
        await until(lambda: gate.waiting)
        stop.set()
        assert not await work
        gate.close(after=1)
        assert not await gate.work(60.0, stop)  # at once, and another may end in its place
        assert await gate.work(0.0)
        assert gate.waiting == 0

    run(check)


def test_who_leaves_or_dies_does_not_stand_there() -> None:
    async def check(gate: Gate) -> None:
        gate.close()
        work = asyncio.create_task(gate.work(0.0))
        await until(lambda: gate.waiting)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert work.cancelled()
        assert gate.waiting == 0

    run(check)
