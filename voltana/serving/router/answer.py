"""The answer to a client: whole, or a stream that begins once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from voltana.serving.router.problem import JSON_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.serving.router.problem import Problem


LAST_WORDS_S = 5.0
"""Time that a client gets to read why its stream ends."""


_AT_ONCE = 1 << 14
"""A shorter chunk is taken without waiting while the client reads."""


class ClientGoneError(Exception):
    """The client has closed the connection."""


def refuse(problem: Problem) -> web.Response:
    """An answer that tells a problem."""
    return web.Response(
        body=problem.body(),
        status=problem.status,
        headers={"Content-Type": problem.body_type, **problem.headers()},
    )


class Answer:
    """What the client gets, at most once.

    Args:
        request: The client's request.
        first_token: Called when the answer begins.
        unread_s: Time that the client may leave a part of it unread.

    Attributes:
        begun: Whether the client has seen a part of a stream, so that nothing can be repeated.
        response: What is to be returned to the HTTP server; None before there is anything.
    """

    def __init__(
        self, request: web.BaseRequest, first_token: Callable[[], None], unread_s: float
    ) -> None:
        self._request = request
        self._unread_s = unread_s
        self._first_token = first_token
        self._stream: web.StreamResponse | None = None
        self.response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        """Whether a stream has begun."""
        return self._stream is not None

    def whole(self, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        """The answer in one piece.

        Args:
            body: As the server sent it.
            kind: Its content type; empty where it names none.
            headers: More headers.
        """
        self._first_token()
        kind = kind or JSON_TYPE
        self.response = web.Response(body=body, headers={"Content-Type": kind, **headers})

    async def begin(self, kind: str, headers: Mapping[str, str]) -> None:
        """Begin a stream of the content type `kind`."""
        self._first_token()
        stream = web.StreamResponse(headers={"Content-Type": kind, **headers})
        self._stream = self.response = stream
        try:
            await stream.prepare(self._request)
        except ConnectionError as error:
            raise ClientGoneError from error

    async def write(self, chunk: bytes) -> None:
        """A part of the stream.

        Raises:
            ClientGoneError: If nobody reads it.
        """
        if self._stream is None or not chunk:
            return
        transport = self._request.transport
        try:
            if len(chunk) < _AT_ONCE and not (transport and transport.get_write_buffer_size()):
                await self._stream.write(chunk)
                return
            async with asyncio.timeout(self._unread_s):
                await self._stream.write(chunk)
        except TimeoutError:
            self._cut_off()
            raise ClientGoneError from None
        except ConnectionError as error:
            raise ClientGoneError from error

    async def end(self) -> None:
        """The stream is complete."""
        if self._stream is None:
            return
        try:
            await self._stream.write_eof()
        except ConnectionError as error:
            raise ClientGoneError from error

    async def fail(self, problem: Problem) -> None:
        """Tell the client what went wrong, inside the stream if it has begun.

        A client that does not read is cut off after a while: it must not hold its place for ever.
        """
        if self.begun:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.write(problem.event())
                    await self.end()
            except TimeoutError:
                self._cut_off()
                raise ClientGoneError from None
            return
        self.response = refuse(problem)

    def _cut_off(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
