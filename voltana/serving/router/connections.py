"""Connections to servers: HTTP/1.1 with one answer at a time, kept open for the next request.

Half of what a router spends on a request is spent here. aiohttp's client session, which does far
more than a router needs (redirects, cookies, traces, proxies, encodings), takes twice as long; its
parser and its flow control are used, and nothing else of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

Payload = bytes | tuple[bytes | bytearray | memoryview, ...]
"""A body, or the parts of a long one, which are not put together."""

CONNECT_TIMEOUT_S = 5.0

KEEP_ALIVE_S = 3.0
"""Below the 5 s after which uvicorn, the HTTP server of most engines, closes an idle connection."""

MOST_INTERIM = 16
"""Answers of status 1xx that may come before the one that counts."""

BROKEN = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)

_BUFFER = 1 << 18

_NOTHING_BEFORE = b"HTTP/1.1 100 Continue\r\n\r\n"

_Place = tuple[str, int, bool]


class Connections:
    """All connections of a router; idle ones are used again, the youngest first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Place, list[tuple[float, ResponseHandler]]] = {}
        self._open: set[ResponseHandler] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self, url: URL) -> ResponseHandler:
        """A connection to the server of a URL, ready for a request.

        Raises:
            ClientConnectorError: If nobody listens there.
            OSError: If it cannot be reached.
        """
        place = _place(url)
        idle = self._idle.get(place)
        while idle:
            since_s, protocol = idle.pop()
            fit = protocol.is_connected() and not protocol.should_close
            young = self._loop.time() - since_s < KEEP_ALIVE_S
            if fit and young and not _has_more(protocol):
                return protocol
            self.drop(protocol)
        return await self._connect(place)

    def keep(
        self, url: URL, protocol: ResponseHandler, content: aiohttp.StreamReader | None
    ) -> None:
        """Give back a connection whose answer has come; it is closed if it cannot go on.

        An answer that is still to come would be taken for that to the next request, which may be
        another client's; a connection that owes one looks idle, so whoever gives it back shows
        that it has ended.

        Args:
            url: Where it goes.
            protocol: The connection.
            content: The answer to what was sent on it last; None where its head has not come.
        """
        whole = content is not None and content.is_eof()
        if self._closed or not whole or protocol.should_close or not protocol.is_connected():
            self.drop(protocol)
            return
        place = _place(url)
        self._idle.setdefault(place, []).append((self._loop.time(), protocol))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEP_ALIVE_S, self._sweep)

    def drop(self, protocol: ResponseHandler) -> None:
        """Close a connection; what a server has not taken of a request it will never get."""
        self._open.discard(protocol)
        transport = protocol.transport
        if transport is not None and transport.get_write_buffer_size():
            protocol.abort()
        else:
            protocol.close()

    async def close(self) -> None:
        """Close all of them."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        closing = [protocol.closed for protocol in self._open]
        for protocol in tuple(self._open):
            self.drop(protocol)
        waited = [future for future in closing if future is not None]
        if waited:
            await asyncio.wait(waited, timeout=1.0)
            for future in waited:
                if future.done() and not future.cancelled():
                    future.exception()  # it was closed, for whatever reason

    async def _connect(self, place: _Place) -> ResponseHandler:
        host, port, secure = place
        loop = self._loop
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, protocol = await loop.create_connection(
                    lambda: ResponseHandler(loop), host, port, ssl=True if secure else None
                )
        except TimeoutError:
            raise TimeoutError(
                f"no connection to {host}:{port} in {CONNECT_TIMEOUT_S:g} s"
            ) from None
        except OSError as error:
            raise NobodyListensError(f"Cannot connect to {host}:{port}: {error}") from error
        protocol.set_response_params(
            auto_decompress=False,
            read_bufsize=_BUFFER,
            read_until_eof=True,  # what tells no length, as HTTP/1.0, ends with the connection
        )
        self._open.add(protocol)
        return protocol

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._sweeper = None
        old_s = self._loop.time() - KEEP_ALIVE_S
        for place, idle in self._idle.items():
            for since_s, protocol in idle:
                if since_s <= old_s:
                    self.drop(protocol)
            self._idle[place] = [entry for entry in idle if entry[0] > old_s]
        if any(self._idle.values()):
            self._sweeper = self._loop.call_later(KEEP_ALIVE_S, self._sweep)


def _place(url: URL) -> _Place:
    return url.host or "", url.port or 0, url.scheme == "https"


def _has_more(protocol: ResponseHandler) -> bool:
    """Whether the beginning of another answer has come since the last one ended.

    The parser keeps it to itself, and would read the next answer, which may be another client's,
    on from there. So it is given an answer of its own: it is found whole if nothing stands before.
    """
    parser = getattr(protocol, "_parser", None)
    if parser is None:
        return False
    try:
        found, _, _ = parser.feed_data(_NOTHING_BEFORE)
    except HttpProcessingError:
        return True
    (message, _), *more = found or [(None, None)]
    return bool(more) or message is None or message.code != 100 or message.reason != "Continue"


class NobodyListensError(OSError):
    """A server cannot be connected to."""


def head_of(method: str, url: URL, headers: Mapping[str, str], length: int) -> bytes:
    """The first lines of a request.

    Raises:
        ValueError: If a header holds a line break, as none that was parsed does.
    """
    lines = [f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.raw_authority}"]
    for name, value in headers.items():
        lines.append(f"{name}: {value}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines):
        raise ValueError("a header holds a line break")
    if length or method != "GET":
        text = f"{text}\r\nContent-Length: {length}"
    return f"{text}\r\n\r\n".encode("utf-8", "surrogateescape")


def length_of(body: Payload) -> int:
    """Bytes of a body."""
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


async def answer_of(protocol: ResponseHandler) -> tuple[Any, aiohttp.StreamReader]:
    """Head and content of the answer.

    Raises:
        HttpProcessingError: If it is not HTTP, or nothing that was asked for.
    """
    for _ in range(MOST_INTERIM):
        message, content = await protocol.read()
        if 200 <= message.code <= 599:
            if message.headers.get("Content-Encoding", "identity") != "identity":
                raise HttpProcessingError(message="its answer is packed, which nobody asked for")
            return message, content
        if not 101 < message.code < 200:  # nor is 101 an answer: nobody asks for an upgrade
            break
    raise HttpProcessingError(message=f"answered status {message.code}: must be 200 to 599")
