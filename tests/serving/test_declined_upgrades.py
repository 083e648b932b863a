"""What follows a wish for another protocol is paced, and answered, as what follows any request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web, web_protocol

from voltana.serving.inlets import HEAD_ENDS, HEADS, LINES, SLICE
from voltana.serving.router.doors import Doors, GuardedRunner
from voltana.serving.router.limits import LimitsTable

WISH = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
TUNNEL = b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\n \r\n" * 15_000
    + b"0\r\n\r\n"
)
BEHIND = {"many requests": (GET * 500, 500), "a chunked body": (CHUNKED, 1), "a wish": (WISH, 1)}


@pytest.mark.parametrize("first", [WISH, TUNNEL], ids=["upgrade", "tunnel"])
@pytest.mark.parametrize("behind", BEHIND)
def test_nothing_behind_a_declined_upgrade_is_parsed_in_one_go(
    first: bytes, behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[bytes] = []

    class Parser(web_protocol.HttpRequestParser):  # type: ignore[misc]
        def feed_data(self, data: bytes) -> Any:
            fed.append(bytes(data))
            return super().feed_data(data)

    monkeypatch.setattr(web_protocol, "HttpRequestParser", Parser)
    more, requests = BEHIND[behind]
    answers = asyncio.run(_said(first, more + LAST))
    assert answers.count(b"HTTP/1.1 ") == 1 + requests + 1
    assert all(
        len(piece) <= SLICE or (piece.count(b"\n") <= LINES and piece.count(HEAD_ENDS) <= HEADS)
        for piece in fed
    )


async def _said(first: bytes, more: bytes) -> bytes:
    """All answers to a request, while whose answer is awaited more is sent."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(0.2 if not answered else 0.0)
        answered.append(request.path)
        return web.Response()

    answered: list[str] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    doors = Doors(LimitsTable())
    app.middlewares.append(doors.attended())
    runner = GuardedRunner(app, doors)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
            writer.write(first)
            await asyncio.sleep(0.05)
            writer.write(more)
            said = await reader.read(-1)
            writer.close()
            return said
    finally:
        doors.close()
        await runner.cleanup()


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
BODY = b"12345"


@pytest.mark.parametrize("name", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("sent", ["at once", "its body apart", "its head apart"])
def test_a_request_that_follows_the_body_of_a_wish_is_answered(name: bytes, sent: str) -> None:
    """As of one who goes on with HTTP/1.1 until another protocol is granted."""
    wish = POST + b"Connection: Upgrade\r\nUpgrade: " + name + b"\r\n\r\n"
    every = wish + BODY + wish + BODY + LAST
    ends = {"at once": len(every), "its body apart": len(wish), "its head apart": len(POST)}[sent]
    answers = asyncio.run(_said(every[:ends], every[ends:]))
    assert answers.count(b"HTTP/1.1 200") == 3


BODIES = {
    "declared": (b"Content-Length: 5\r\n", BODY),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("first", [True, False], ids=["wish first", "wish last"])
@pytest.mark.parametrize("kind", BODIES)
def test_wherever_what_is_sent_is_cut_a_wish_is_seen(kind: str, *, first: bool) -> None:
    """Networks cut anywhere: within the wish, the end of its head, or that of its body."""
    length, body = BODIES[kind]
    wished = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + (wished + length if first else length + wished)
    every = 2 * (head + b"\r\n" + body) + LAST

    async def all_said() -> list[int]:
        cuts = range(len(b"POST / HTTP/1.1\r\n"), len(every) - len(LAST))
        said = await asyncio.gather(
            *(_said(every[:cut], every[cut:]) for cut in cuts), return_exceptions=True
        )
        return [
            cut
            for cut, answers in zip(cuts, said, strict=True)
            if isinstance(answers, BaseException) or answers.count(b"HTTP/1.1 200") != 3
        ]

    assert asyncio.run(all_said()) == []
