"""Servers whose answers have no clear end: what is left over reaches no other request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from voltana.serving.router.problem import Problem
from voltana.serving.router.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
"""What was computed for somebody else."""


def _whole(path: bytes, *head: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(line + b"\r\n" for line in head)
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, lines, len(path), path)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ODD = {
    "two answers": lambda path: _whole(path) + OTHER,
    "three answers": lambda path: _whole(path) + 2 * OTHER,
    "an answer and half of another": lambda path: _whole(path) + OTHER[:20],
    "an answer and a beginning": lambda path: _whole(path) + b"H",
    "an answer and a header": lambda path: _whole(path) + b"HTTP/1.1 503 No\r\nX: ",
    "chunks and a beginning": lambda path: (
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\nHTTP/1.1 200" % (len(path), path)
    ),
    "one behind close": lambda path: _whole(path, b"Connection: close") + OTHER,
    "a longer body than was said": lambda path: _whole(path) + b"secret",
    "204 with a body": lambda _path: _whole(OTHER, status=b"204 No Content"),
    "304 with a body": lambda _path: _whole(OTHER, status=b"304 Not Modified"),
    "205 with another answer": lambda path: _whole(path, status=b"205 Reset Content") + OTHER,
    "interim answers before": lambda path: b"HTTP/1.1 103 Early\r\n\r\n" * 3 + _whole(path),
    "an interim answer behind": lambda path: _whole(path) + b"HTTP/1.1 100 Continue\r\n\r\n",
    "a switch of protocols": lambda path: (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + _whole(path)
    ),
    "both lengths": lambda path: (
        CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(path), path) + OTHER
    ),
    "two lengths": lambda path: _whole(path, b"Content-Length: 60") + OTHER,
    "trailers": lambda path: CHUNKED + b"%x\r\n%s\r\n0\r\nA: b\r\n\r\n" % (len(path), path),
    "trailers that end in another answer": lambda path: (
        CHUNKED + b"%x\r\n%s\r\n0\r\nA: b\r\n\r\n" % (len(path), path) + OTHER
    ),
    "trailers without an end": lambda path: (
        CHUNKED + b"%x\r\n%s\r\n0\r\nA: b\r\n" % (len(path), path)
    ),
    "a chunk longer than said": lambda path: (
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(path) - 1, path) + OTHER
    ),
    "an encoding": lambda path: _whole(path, b"Content-Encoding: gzip"),
    "line ends alone": lambda path: _whole(path).replace(b"\r\n", b"\n") + OTHER,
}


@contextlib.asynccontextmanager
async def _server(odd: str, later: asyncio.Event | None) -> AsyncIterator[str]:
    """Answers with the path it was asked for; where that begins with odd, in an odd way.

    Args:
        odd: In which.
        later: What is left over is sent when this is set, which is cleared then.
    """
    open_: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                said = ODD[odd](path) if path.startswith(b"/odd") else _whole(path)
                end = said.find(b"HTTP/1.1", 1) if later else -1
                writer.write(said[:end] if end > 0 else said)
                if later and path.startswith(b"/odd"):
                    await later.wait()
                    later.clear()
                    writer.write(said[end:] if end > 0 else b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in open_:
            writer.close()


async def _said(wire: Wire, url: str) -> bytes | None:
    """The body of an answer; None where it broke."""
    try:
        async with wire.call("server", "GET", url, timeout_s=1.0) as answer:
            return await answer.read()
    except Problem:
        return None


async def _odd_and_sound(wire: Wire, url: str, number: int, later: asyncio.Event | None) -> None:
    """One request that is answered in an odd way, and one behind it."""
    odd, sound = f"/odd{number}", f"/sound{number}"
    said = await _said(wire, url + odd)
    assert not said or odd.encode().startswith(said)
    if later is not None:
        later.set()
    for _ in range(20):  # what was sent on this host has come by then
        await asyncio.sleep(0.0)
    assert await _said(wire, url + sound) == sound.encode()


@pytest.mark.parametrize("is_later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_left_over_of_an_answer_reaches_no_other_request(odd: str, is_later: bool) -> None:
    async def check() -> None:
        later = asyncio.Event() if is_later else None
        async with _server(odd, later) as url:
            wire = Wire()
            try:
                for number in range(4):
                    await _odd_and_sound(wire, url, number, later)
            finally:
                await wire.close()

    asyncio.run(check())
