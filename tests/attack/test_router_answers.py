"""Answers that few servers give: the whole ones arrive whole, and for others nobody waits.

A body without a length ends with the connection; an upgrade or a packing that nobody asked for is
no answer; and a content type that cannot be passed on must not cost the client the answer.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.attack.odd_server import OddServer
from tests.attack.router_stage import Stage, post, run_before, say, status_of
from tests.attack.test_router_poison import QUICK, sends

WORDS = b'{"text": "Paris", "meta_info": {"id": "x", "prompt_tokens": 7}}'
EVENTS = b'data: {"text": "Paris", "meta_info": {"id": "x"}}\n\ndata: [DONE]\n\n'
LENGTH = b"Content-Length: %d\r\n\r\n" % len(WORDS)
ASKED = {
    False: post(b'{"text": "poison"}'),
    True: post(b'{"text": "poison", "stream": true}'),
}
SOON_S = 5.0
"""Half of the time that a request has here."""

WHOLE = {
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "a type with odd characters": b"HTTP/1.1 200 OK\r\nContent-Type: a\x0bb\x0c\r\n" + LENGTH,
    "a type of no character set": b"HTTP/1.1 200 OK\r\nContent-Type: a\xff\xfe\r\n" + LENGTH,
}
SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
PACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + LENGTH + WORDS


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_of_an_odd_form_reaches_the_client_whole(name: str) -> None:
    head = WHOLE[name]
    servers = [OddServer(sends(head + WORDS)) for _ in range(2)]

    async def attack(it: Stage) -> None:
        async def ask() -> None:
            said = await say(it.port, ASKED[False])
            assert status_of(said) == 200, (name, said[:300])
            assert said.endswith(b"\r\n\r\n" + WORDS), (name, said[-300:])

        await ask()
        if LENGTH not in head:
            for server in servers:
                server.odd = sends(head + EVENTS)
            said = await say(it.port, ASKED[True])
            assert status_of(said) == 200, (name, said[:300])
            assert EVENTS.rstrip() in said.replace(b"\r\n", b""), (name, said[-300:])
            for server in servers:
                server.odd = sends(head + WORDS)
        await it.honest_beside(ask, name)

    run_before(servers, attack, **QUICK)


@pytest.mark.parametrize("stream", ASKED)
@pytest.mark.parametrize("said", [SWITCHES, PACKED], ids=["an upgrade", "packed"])
def test_what_nobody_asked_for_is_no_answer_and_not_waited_for(said: bytes, stream: bool) -> None:
    over = asyncio.Event()

    async def odd(writer: asyncio.StreamWriter) -> None:
        await sends(said)(writer)
        await over.wait()  # it says no more, and stays

    async def attack(it: Stage) -> None:
        async def ask() -> None:
            async with asyncio.timeout(SOON_S):
                assert status_of(await say(it.port, ASKED[stream])) == 502

        try:
            await ask()
            await it.honest_beside(ask)
        finally:
            over.set()
            await asyncio.sleep(0.1)

    run_before([OddServer(odd) for _ in range(3)], attack, **QUICK)
