"""One call of a try to one server, which the try gives up together with all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from voltana.serving.router.events import Events
from voltana.serving.router.left import Left
from voltana.serving.router.problem import Lost, refused
from voltana.serving.router.wire import Exchange

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.problem import Problem
    from voltana.serving.router.wire import Ask, Wire


class Leg(Exchange):
    """An ``async with`` block during which a server is at work; made by `Attempt.post`.

    The block is entered when the server has accepted the request (status 200). A server counts as
    at work until its answer has been read to the end, or as long as the try lasts if it holds
    something for it. What breaks counts against the server.

    Attributes:
        backend: The server.
    """

    __slots__ = ("_attempt", "_held", "backend")

    def __init__(
        self, attempt: Attempt, backend: Backend, wire: Wire, ask: Ask, *, held: bool
    ) -> None:
        super().__init__(backend.name, wire, ask)
        self._attempt = attempt
        self._held = held
        self.backend = backend

    async def __aenter__(self) -> Self:
        """Send the request.

        Raises:
            Problem: If the server cannot be reached, or answers with an error.
        """
        self._attempt.at_work.add(self.backend)
        await super().__aenter__()
        if self.status < 400 and self.status != 200:
            await self.__aexit__(None, None, None)
            odd = ConnectionError(f"it answered status {self.status}: must be 200")
            raise self.broken(Lost(self.backend.name, odd))
        if self.status != 200:
            try:
                content = await self.read()
            finally:
                await self.__aexit__(None, None, None)
            self._attempt.at_work.discard(self.backend)
            raise refused(self.backend.name, self.status, content, self.kind)
        return self

    async def first_event(self) -> bytes:
        """A stream as far as its first event is complete.

        Raises:
            Problem: If it ends before.
        """
        events, whole = Events(), b""
        while not whole:
            chunk = await self.chunk()
            if not chunk:
                ended = ConnectionError("the stream ended without an event")
                raise self.broken(Lost(self.backend.name, ended))
            whole = events.feed(chunk)
            self.bounded(len(whole) + events.waiting)
        return whole + events.close()

    def bounded(self, kept: int) -> None:
        """Check that not more bytes of the answer are kept than may be.

        Raises:
            Problem: If it is.
        """
        if kept > self._wire.answer_bytes:
            raise self.broken(self.too_long())

    def broken(self, lost: Lost) -> Problem:
        """What the break means for the try."""
        return self._attempt.broken(self.backend, lost)

    def left(self, _protocol: ResponseHandler) -> bool:
        """Leave the connection to who tells the server to stop."""
        connections = self._wire.connections
        left = Left(connections, self._ask.url, _protocol, self._content)
        return self._attempt.leave(self.backend, left)

    def ended(self) -> None:
        """The server is at work no more, unless it holds something."""
        if not self._held:
            self._attempt.at_work.discard(self.backend)
