"""One call of a try to one server, which the try gives up together with all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.serving.router.problem import Lost, refused

if TYPE_CHECKING:
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.wire import Exchange

EVENT_END = b"\n\n"


class Leg:
    """An ``async with`` block during which the server is at work; made by `Attempt.post`.

    The block is entered when the server has accepted the request (status 200). A server counts as
    at work until its answer has been read to the end, or as long as the try lasts if it holds
    something for it.

    Attributes:
        backend: The server.
        kind: Content type of its answer.
    """

    __slots__ = ("_attempt", "_exchange", "_held", "backend", "kind")

    def __init__(
        self, attempt: Attempt, backend: Backend, exchange: Exchange, *, held: bool
    ) -> None:
        self._attempt = attempt
        self._exchange = exchange
        self._held = held
        self.backend = backend
        self.kind = ""

    async def __aenter__(self) -> Leg:
        """Send the request.

        Raises:
            Problem: If the server cannot be reached, or answers with an error.
        """
        self._attempt.at_work.add(self.backend)
        try:
            reply = await self._exchange.__aenter__()
        except Lost as lost:
            raise self._attempt.broken(self.backend, lost) from lost
        self.kind = reply.kind
        if reply.status != 200:
            try:
                content = await self.read()
            finally:
                await self._exchange.__aexit__(None, None, None)
            self._attempt.at_work.discard(self.backend)
            raise refused(self.backend.name, reply.status, content, reply.kind)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exchange.__aexit__(*error)

    async def read(self) -> bytes:
        """The whole answer, or what is left of it.

        Raises:
            Problem: If it breaks off.
        """
        try:
            content = await self._exchange.read()
        except Lost as lost:
            raise self._attempt.broken(self.backend, lost) from lost
        self._over()
        return content

    async def chunk(self) -> bytes:
        """What has arrived of a stream, waiting for something; empty at its end.

        Raises:
            Problem: If it breaks off.
        """
        try:
            content = await self._exchange.chunk()
        except Lost as lost:
            raise self._attempt.broken(self.backend, lost) from lost
        if not content:
            self._over()
        return content

    async def first_event(self) -> bytes:
        """A stream as far as its first event is complete.

        Raises:
            Problem: If it ends before.
        """
        begin = b""
        while EVENT_END not in begin:
            chunk = await self.chunk()
            if not chunk:
                ended = ConnectionError("the stream ended without an event")
                raise self._attempt.broken(self.backend, Lost(self.backend.name, ended))
            begin += chunk
        return begin

    def _over(self) -> None:
        if not self._held:
            self._attempt.at_work.discard(self.backend)
