"""A connection whose client has left serves another request only when its answer has ended.

What a server still owes on it would be taken for the answer to the next request: another client
would read what was computed for the one that left.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from voltana.serving.router import left
from voltana.serving.router.connections import Connections
from voltana.serving.router.left import Left
from voltana.serving.router.sending import send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nParis"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nParis\r\n0\r\n\r\n"
OWED = {
    "nothing of it": b"",
    "half a head": WHOLE[:12],
    "an interim answer": CONTINUE,
    "a head": WHOLE[:-5],
    "half a body": WHOLE[:-2],
    "chunks without an end": CHUNKED[:-5],
}


@contextlib.asynccontextmanager
async def _server(said: bytes) -> AsyncIterator[URL]:
    """Says something to each request, and no more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()


async def _is_used_again(said: bytes, *, given_up_s: float | None = None) -> bool:
    """Whether a connection that was left is used again after a server has said that."""
    async with _server(said) as url:
        connections = Connections()
        protocol = await connections.take(url)
        await send(protocol, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"")
        reading = Left(connections, url, protocol, None).read()
        with contextlib.suppress(TimeoutError):
            await (reading if given_up_s is None else asyncio.wait_for(reading, given_up_s))
        again = await connections.take(url)
        try:
            return again is protocol
        finally:
            await connections.close()


@pytest.mark.parametrize("given_up_s", [None, 0.02], ids=["late", "given up"])
@pytest.mark.parametrize("owed", OWED)
def test_who_still_owes_an_answer_gives_it_to_nobody_else(
    owed: str, given_up_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left, "REST_S", 0.05)
    assert not asyncio.run(_is_used_again(OWED[owed], given_up_s=given_up_s))


@pytest.mark.parametrize("said", [WHOLE, CHUNKED], ids=["whole", "chunks"])
def test_what_has_ended_is_used_again(said: bytes) -> None:
    assert asyncio.run(_is_used_again(said))
