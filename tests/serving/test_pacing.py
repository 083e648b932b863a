"""Events of strangers take turns, whatever their number, and none is lost."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from voltana.serving.router.pacing import AT_ONCE, FOR_EACH, PUT_OFF, Kind, Turns, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("kind", Kind)
def test_no_pass_of_the_loop_works_off_more_than_some_and_all_keep_their_order(kind: Kind) -> None:
    async def check() -> None:
        turns, done, by_pass = Turns(), list[int](), list[int]()

        def event(number: int) -> None:
            if turns.at_once(kind):
                done.append(number)
            else:
                turns.later(kind, lambda: done.append(number))

        for number in range(50):
            event(number)
        by_pass.append(len(done))
        while len(done) < 50:
            await asyncio.sleep(0)
            by_pass.append(len(done) - sum(by_pass))
        assert done == list(range(50))
        assert max(by_pass) <= AT_ONCE[kind]
        await until(lambda: turns.at_once(kind))  # nothing is left over from before

    asyncio.run(check())


@pytest.mark.parametrize("kind", [Kind.WHOLE, Kind.EARLY])
def test_where_others_do_much_strangers_may_as_well(kind: Kind) -> None:
    async def check() -> None:
        turns, done, others = Turns(), list[int](), 7
        for number in range(100):
            turns.later(kind, partial(done.append, number))
        for _ in range(others):
            turns.other()
        await asyncio.sleep(0)
        assert done == list(range(AT_ONCE[kind] + FOR_EACH[kind] * others))
        await asyncio.sleep(0)
        assert len(done) == 2 * AT_ONCE[kind] + FOR_EACH[kind] * others  # as before, without them

    asyncio.run(check())


@pytest.mark.parametrize("kind", [Kind.EARLY, Kind.REST])
def test_whole_requests_wait_for_no_pieces_and_hold_none_up(kind: Kind) -> None:
    async def check() -> None:
        turns, done = Turns(), list[Kind]()
        for _ in range(200):
            turns.later(kind, partial(done.append, kind))
        for _ in range(100):
            turns.later(Kind.WHOLE, partial(done.append, Kind.WHOLE))
        await until(lambda: done.count(Kind.WHOLE) == 100)
        assert 0 < done.count(kind) <= 100 / AT_ONCE[Kind.WHOLE]
        await until(lambda: done.count(kind) == 200)

    asyncio.run(check())


def test_pieces_wait_while_connections_come_but_not_for_ever() -> None:
    async def check() -> None:
        turns, done, passes = Turns(), list[int](), 5 * PUT_OFF
        for number in range(100):
            turns.later(Kind.EARLY, partial(done.append, number))
        for _ in range(passes):
            turns.came()
            assert not turns.at_once(Kind.EARLY)
            assert turns.at_once(Kind.WHOLE)
            await asyncio.sleep(0)
        assert 1 <= len(done) <= passes / PUT_OFF + 1
        await until(lambda: len(done) == 100)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("data", "before", "kind"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, Kind.WHOLE),
        (HEAD + b"Content-Length: 3\r\n\r\nabc", 0, Kind.WHOLE),
        (HEAD + b"content-length:3\r\nA: b\r\n\r\nab", 0, Kind.EARLY),
        (HEAD + b"Content-Length: 700000\r\n\r\n", 0, Kind.EARLY),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0, Kind.WHOLE),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0, Kind.EARLY),
        (HEAD, 0, Kind.EARLY),
        (b"", 0, Kind.EARLY),
        (b"Content-Length: 3\r\n\r\n", 1, Kind.EARLY),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 2, Kind.REST),
    ],
)
def test_a_glance_tells_what_a_piece_is(data: bytes, before: int, kind: Kind) -> None:
    assert kind_of(data, before) is kind


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)
