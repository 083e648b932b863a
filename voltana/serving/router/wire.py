"""The one way to servers: opens every HTTP call, and turns what breaks it into `Lost`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson
from yarl import URL

from voltana.serving.frames import let_go
from voltana.serving.router.answer import ClientGoneError
from voltana.serving.router.bulk import Bulk
from voltana.serving.router.connections import (
    BROKEN,
    Connections,
    NobodyListensError,
    answer_of,
    head_of,
    length_of,
)
from voltana.serving.router.problem import JSON_TYPE, Lost
from voltana.serving.router.sending import is_spent, send

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from aiohttp import StreamReader
    from aiohttp.client_proto import ResponseHandler

    from voltana.serving.router.connections import Payload
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.problem import Problem

ANSWER_BYTES = 1 << 28
"""A router that nobody configured keeps answers of so many bytes."""

GIVEN_UP = (asyncio.CancelledError, ClientGoneError)
"""What ends a call because nobody waits for it any more."""

_PLAIN = frozenset({"keep-alive", "close"})
"""Values of the header ``Connection`` that name no other header."""

_NOT_FORWARDED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-voltana-prefix",
    }
)
"""Headers that end at this hop; bodies arrive decompressed and are sent as they are."""

_OVERRIDES = "x-override-"
"""So begin headers by which some engines are told, where they are set up for that, what else a body
says: the id of a request, its room, the host that a KV cache is fetched from. It is ours to say."""


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def ends_here(headers: Any) -> set[str]:
    """Names of headers that end at this hop because ``Connection`` names them, in lower case."""
    named = headers.get("Connection")
    if named is None or named.lower() in _PLAIN:
        return set()
    return {name.strip().lower() for name in ",".join(headers.getall("Connection")).split(",")}


def forwarded_headers(headers: Any) -> dict[str, str]:
    """The client's headers that concern the servers."""
    kept = {
        name: value
        for name, value in headers.items()
        if (plain := name.lower()) not in _NOT_FORWARDED and not plain.startswith(_OVERRIDES)
    }
    if ends := ends_here(headers):
        kept = {name: value for name, value in kept.items() if name.lower() not in ends}
    kept.setdefault("Content-Type", JSON_TYPE)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request to a server.

    Attributes:
        method: HTTP method.
        url: Where it goes.
        body: What is sent.
        headers: Sent as they are.
        timeout_s: For all of it; None leaves that to the caller.
    """

    method: str
    url: URL
    body: Payload = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


class Exchange:
    """One HTTP call, open while its block runs; every failure of the transport is a `Problem`.

    Args:
        server: Who is named when it breaks.
        wire: The way there.
        ask: The request.

    Attributes:
        status: HTTP status, 200 to 599.
        reason: Its words.
        kind: Content type; empty where it names none.
        headers: All headers of the answer.
    """

    __slots__ = (
        "_ask", "_content", "_ends_s", "_protocol", "_server", "_taken", "_wire",
        "headers", "kind", "reason", "status",
    )  # fmt: skip

    def __init__(self, server: str, wire: Wire, ask: Ask) -> None:
        self._server = server
        self._wire = wire
        self._ask = ask
        self._protocol: ResponseHandler | None = None
        self._content: StreamReader | None = None
        self._taken = 0
        self._ends_s = None if ask.timeout_s is None else wire.loop.time() + ask.timeout_s

    async def __aenter__(self) -> Self:
        await self._limited(self._open())
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        # Closes the connection unless the answer has been read to its end.
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        given_up = kind is not None and issubclass(kind, GIVEN_UP) and protocol.should_close
        if not (given_up and protocol.is_connected() and self.left(protocol)):
            self._wire.connections.keep(self._ask.url, protocol, self._content)

    async def read(self) -> bytes:
        """The whole answer, or what is left of it."""
        content: bytes = await self._limited(self._rest())
        self.ended()
        return content

    async def chunk(self) -> bytes:
        """What has arrived, waiting for something; empty at the end."""
        content: bytes = await self._limited(self._piece())
        if not content:
            self.ended()
        return content

    def broken(self, lost: Lost) -> Problem:
        """What is raised when the call breaks."""
        return lost

    def ended(self) -> None:
        """The answer has been read to its end."""

    def left(self, _protocol: ResponseHandler) -> bool:
        """It was given up after it was sent: whether somebody else sees to its connection."""
        return False

    def too_long(self) -> Lost:
        """More came than a router keeps in memory."""
        limit = self._wire.answer_bytes
        return Lost(self._server, ValueError(f"the answer is longer than {limit} bytes"))

    async def _open(self) -> None:
        ask, connections = self._ask, self._wire.connections
        head = head_of(ask.method, ask.url, ask.headers, length_of(ask.body))
        protocol = self._protocol = await connections.take(ask.url)
        sent = False
        try:
            early = await send(protocol, head, ask.body)
            sent = True
            message, self._content = early or await answer_of(protocol)
            if is_spent(ask.body, message.code):
                protocol.force_close()
        except BaseException as error:
            self._protocol = None
            if not (sent and isinstance(error, asyncio.CancelledError) and self.left(protocol)):
                connections.drop(protocol)
            raise
        self.status, self.reason, self.headers = message.code, message.reason, message.headers
        kind = self.headers.get("Content-Type", "")
        self.kind: str = kind if kind.isprintable() else ""  # nothing else can be passed on

    async def _piece(self) -> bytes:
        """What has arrived; the next piece of a long answer is not read before its turn."""
        assert self._content is not None
        chunk = await self._content.readany()
        if wait_s := self._wire.bulk.wait_s(len(chunk), self._taken):
            await asyncio.sleep(wait_s)
        self._taken += len(chunk)
        return chunk

    async def _rest(self) -> bytes:
        most = self._wire.answer_bytes
        if int(self.headers.get("Content-Length", 0)) > most:
            raise ConnectionError(self.too_long().why)  # nothing of it needs to be read
        chunks, size = [], 0
        while chunk := await self._piece():
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                raise ConnectionError(self.too_long().why)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _limited(self, step: Coroutine[Any, Any, Any]) -> Any:
        try:
            if self._ends_s is None:
                return await step
            async with asyncio.timeout_at(self._ends_s):
                return await step
        except BROKEN as error:
            let_go(error)  # the connection keeps it
            raise self.broken(_lost(self._server, error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one server said.

    Attributes:
        backend: The server.
        status: HTTP status; 0 if it could not be reached.
        body: What it sent, or why it could not be reached.
        kind: Content type.
    """

    backend: Backend
    status: int
    body: bytes
    kind: str

    @property
    def ok(self) -> bool:
        """Whether it agreed."""
        return self.status == 200

    def value(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class Wire:
    """The HTTP client towards servers; to be made where an event loop runs.

    It adds nothing to requests, follows no redirects, and limits nothing but the time of a connect
    and the length of what is read as a whole.

    Args:
        answer_bytes: Longest answer that is kept in memory.
    """

    def __init__(self, answer_bytes: int = ANSWER_BYTES) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections = Connections()
        self.bulk = Bulk(self.loop.time)
        self.answer_bytes = answer_bytes

    def call(
        self,
        server: str,
        method: str,
        url: str | URL,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Exchange:
        """A call, opened by ``async with``.

        Args:
            server: Who is named when it breaks.
            method: HTTP method.
            url: Where it goes.
            body: What is sent.
            headers: Sent as they are.
            timeout_s: For all of it; None leaves that to the caller.
        """
        ask = Ask(
            method=method,
            url=URL(url, encoded=True) if isinstance(url, str) else url,
            body=body or b"",
            headers=headers or {},
            timeout_s=timeout_s,
        )
        return Exchange(server, self, ask)

    async def close(self) -> None:
        """Close all connections."""
        await self.connections.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The way to one server for a short question.

    Attributes:
        wire: HTTP client.
        backend: The server.
        headers: Of each question, with a key where one is needed.
        timeout_s: For each of them.
    """

    wire: Wire
    backend: Backend
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One question.

        Raises:
            Lost: If there is no answer.
        """
        backend, headers = self.backend, self.headers
        if body is not None:
            headers = {"Content-Type": JSON_TYPE, **headers}
        call = self.wire.call(
            backend.name,
            method,
            backend.url + path,
            body,
            headers=headers,
            timeout_s=self.timeout_s,
        )
        async with call as answer:
            body = await answer.read()
            return Reply(backend=backend, status=answer.status, body=body, kind=answer.kind)


def _lost(server: str, error: BaseException) -> Lost:
    return Lost(server, error, dead=isinstance(error, NobodyListensError))
