"""Who waits for a child that reads long bodies."""

from __future__ import annotations

import asyncio

from voltana.serving.router.reading import _Lane


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
