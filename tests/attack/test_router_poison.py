"""Requests that make servers answer nonsense, and servers that do."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tests.attack.odd_server import OddServer
from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, post, run_before, say, status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Odd = Callable[[asyncio.StreamWriter], Awaitable[None]]

SERVERS = 4
POISON = post(b'{"text": "poison"}')
HONEST = post(b'{"text": "what else"}')
QUICK = {
    "timeout_s": 10.0,
    "first_token_timeout_s": 5.0,
    "health_period_s": 0.2,
    "limits": {"answer_mb": 2.0},
}


def sends(raw: bytes, times: int = 1) -> Odd:
    async def odd(writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            writer.write(raw)
            await writer.drain()

    return odd


NONSENSE: dict[str, Odd] = {
    "closed": sends(b""),
    "garbage": sends(b"\x00\xff" * 500),
    "status 999": sends(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"),
    "status 0": sends(b"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n"),
    "status 304": sends(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "interim without end": sends(b"HTTP/1.1 100 Continue\r\n\r\n", 200),
    "a huge head": sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    "headers without end": sends(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 100_000),
    "chunks without end": sends(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 64
    ),
    "a broken chunk": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "less than declared": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"),
    "status 500": sends(b"HTTP/1.1 500 Bad\r\nContent-Length: 2\r\n\r\n{}"),
}


def test_a_poison_request_is_not_tried_on_all_and_ejects_nobody() -> None:
    servers = [OddServer(NONSENSE["closed"]) for _ in range(SERVERS)]

    async def poison(stage: Stage, name: str) -> None:
        before = [server.poisoned for server in servers]
        said = await say(stage.port, POISON)
        assert status_of(said) in {500, 502}, (name, said[:300])
        tried = sum(s.poisoned > b for s, b in zip(servers, before, strict=True))
        assert 1 <= tried <= 2, (name, tried)

    async def attack(stage: Stage) -> None:
        for name, odd in NONSENSE.items():
            for server in servers:
                server.odd = odd
            for _ in range(2):  # one after the other, so that it is known where each was tried
                await poison(stage, name)
            await stage.honest_beside(partial(_one, stage), name)
            eight, honest = partial(_eight, stage), partial(_eight, stage, HONEST)
            await stage.honest_beside(eight, f"eight of {name}", than=honest)
        before = [server.honest for server in servers]
        await stage.beside(nothing)
        assert all(s.honest > b for s, b in zip(servers, before, strict=True)), "one was ejected"

    run_before(servers, attack, **QUICK)


def test_failing_requests_never_eject_more_than_a_share() -> None:
    """Poison that breaks some servers only, so that others prove those to be at fault."""
    well = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    servers = [OddServer(sends(b"") if i < 3 else well) for i in range(4)]

    async def attack(stage: Stage) -> None:
        eight, honest = partial(_eight, stage), partial(_eight, stage, HONEST)
        await stage.honest_beside(eight, than=honest)
        before = [server.honest for server in servers]
        await stage.beside(nothing)
        served = sum(s.honest > b for s, b in zip(servers, before, strict=True))
        assert served >= 2

    run_before(servers, attack, **QUICK, eject_s=30.0, eject_max_s=30.0)


def test_a_server_that_breaks_everything_is_found_out() -> None:
    """Honest requests move on, and are the evidence against it."""
    servers = [OddServer(sends(b"")) for _ in range(3)]
    servers[0].broken = True

    async def attack(stage: Stage) -> None:
        await stage.honest_beside(nothing)
        before = servers[0].broke
        await stage.beside(nothing)
        assert servers[0].broke <= before + 5, "it is not ejected"

    run_before(servers, attack, **QUICK, eject_s=30.0, eject_max_s=30.0)


def test_repetitions_have_a_budget() -> None:
    """Servers without time get no more than a hundred requests beyond those that came."""
    busy = sends(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}")
    servers = [OddServer(busy) for _ in range(3)]

    async def attack(stage: Stage) -> None:
        count = 600
        for _ in range(count // 30):
            await asyncio.gather(*(say(stage.port, POISON) for _ in range(30)))
        assert sum(server.poisoned for server in servers) < count * 1.2 + 100 + 10 * 30

    run_before(servers, attack, **QUICK)


async def _one(stage: Stage) -> None:
    await say(stage.port, POISON)
    await asyncio.sleep(0)


async def _eight(stage: Stage, request: bytes = POISON) -> None:
    """Poison that comes eight at once, which is held against as many honest requests."""
    await asyncio.gather(*(say(stage.port, request) for _ in range(8)))


async def nothing() -> None:
    await asyncio.sleep(0.2)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 16
FIRST = b"c\r\ndata: {}\n\n  \r\n"


def test_a_line_without_end_costs_its_length_and_ends_at_the_longest_answer() -> None:
    """Before the first event, and after it, where an id of the client's has to be put back."""
    servers = [OddServer(NONSENSE["closed"]) for _ in range(SERVERS)]
    poison = post(b'{"text": "poison", "stream": true, "rid": "mine"}')

    async def attack(stage: Stage) -> None:
        for begin in (HEAD, HEAD + FIRST):

            async def odd(writer: asyncio.StreamWriter, begin: bytes = begin) -> None:
                await sends(begin)(writer)
                await sends(ENDLESS, 64)(writer)

            for server in servers:
                server.odd = odd

            async def one(streams: bool = begin is not HEAD) -> None:
                said = await say(stage.port, poison)
                assert status_of(said) == (200 if streams else 502), said[:300]
                assert b"longer than 32000000 bytes" in said, said[-300:]

            await stage.honest_beside(one, added_s=HEAVY_S)  # 64 MB are moved for each

    run_before(servers, attack, **{**QUICK, "limits": {"answer_mb": 32.0}})
