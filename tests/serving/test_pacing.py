"""Events of strangers take turns, whatever their number, and none is lost."""

from __future__ import annotations

import asyncio

from voltana.serving.router.pacing import AT_ONCE, Turns


def test_no_pass_of_the_loop_works_off_more_than_some_and_all_keep_their_order() -> None:
    async def check() -> None:
        turns, done, by_pass = Turns(), list[int](), list[int]()

        def event(number: int) -> None:
            if turns.at_once():
                done.append(number)
            else:
                turns.later(lambda: done.append(number))

        for number in range(50):
            event(number)
        by_pass.append(len(done))
        while len(done) < 50:
            await asyncio.sleep(0)
            by_pass.append(len(done) - sum(by_pass))
        assert done == list(range(50))
        assert max(by_pass) <= AT_ONCE
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert turns.at_once()  # nothing is left over from before

    asyncio.run(check())


def test_where_others_do_much_strangers_may_as_well() -> None:
    async def check() -> None:
        turns, done = Turns(), list[int]()
        for number in range(20):
            turns.later(lambda number=number: done.append(number))  # type: ignore[misc]
            turns.other()
        await asyncio.sleep(0)
        assert done == list(range(20))

    asyncio.run(check())
