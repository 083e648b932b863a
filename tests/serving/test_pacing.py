"""Events of strangers take turns, whatever their number, and none is lost."""

from __future__ import annotations

import asyncio

from voltana.serving.router.pacing import AT_ONCE, FOR_EACH, Turns


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
        turns, done, others = Turns(), list[int](), 7
        for number in range(100):
            turns.later(lambda number=number: done.append(number))  # type: ignore[misc]
        for _ in range(others):
            turns.other()
        await asyncio.sleep(0)
        assert done == list(range(AT_ONCE + FOR_EACH * others))
        await asyncio.sleep(0)
        assert len(done) == 2 * AT_ONCE + FOR_EACH * others  # no more than before, with no others

    asyncio.run(check())
