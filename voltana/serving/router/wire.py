"""The one way to servers: opens every HTTP call, and turns what breaks it into `Lost`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import orjson

from voltana.serving.router.problem import JSON_TYPE, Lost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from voltana.serving.router.pool import Backend
    from voltana.serving.router.problem import Problem

CONNECT_TIMEOUT_S = 5.0

KEEP_ALIVE_S = 3.0
"""Below the 5 s after which uvicorn, the HTTP server of most engines, closes an idle connection."""

_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)

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
    }
)
"""Headers that end at this hop; bodies arrive decompressed and are sent as they are."""


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def forwarded_headers(headers: Any) -> dict[str, str]:
    """The client's headers that concern the servers."""
    kept = {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
    kept.setdefault("Content-Type", JSON_TYPE)
    return kept


class Exchange:
    """One HTTP call, open while its block runs; every failure of the transport is a `Problem`.

    Args:
        server: Who is named when it breaks.
        context: What `Wire.request` has made.

    Attributes:
        status: HTTP status.
        reason: Its words.
        kind: Content type.
        headers: All headers of the answer.
    """

    __slots__ = ("_context", "_reply", "_server", "headers", "kind", "reason", "status")

    def __init__(self, server: str, context: Any) -> None:
        self._server = server
        self._context = context

    async def __aenter__(self) -> Self:
        try:
            self._reply: aiohttp.ClientResponse = await self._context.__aenter__()
        except _BROKEN as error:
            raise self.broken(_lost(self._server, error)) from error
        self.status, self.reason = self._reply.status, self._reply.reason
        self.headers = self._reply.headers
        self.kind: str = self.headers.get("Content-Type", "")
        return self

    async def __aexit__(self, *error: object) -> None:
        # Closes the connection unless the answer has been read to its end.
        await self._context.__aexit__(*error)

    async def read(self) -> bytes:
        """The whole answer, or what is left of it."""
        try:
            content = await self._reply.read()
        except _BROKEN as error:
            raise self.broken(_lost(self._server, error)) from error
        self.ended()
        return content

    async def chunk(self) -> bytes:
        """What has arrived, waiting for something; empty at the end."""
        try:
            content = await self._reply.content.readany()
        except _BROKEN as error:
            raise self.broken(_lost(self._server, error)) from error
        if not content:
            self.ended()
        return content

    def broken(self, lost: Lost) -> Problem:
        """What is raised when the call breaks."""
        return lost

    def ended(self) -> None:
        """The answer has been read to its end."""


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

    It adds nothing to requests and limits nothing but the time of a connect.
    """

    def __init__(self) -> None:
        self._patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            read_bufsize=1 << 18,
        )

    def call(
        self,
        server: str,
        method: str,
        url: str | URL,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        follow: bool = True,
    ) -> Exchange:
        """A call, opened by ``async with``.

        Args:
            server: Who is named when it breaks.
            method: HTTP method.
            url: Where it goes.
            body: What is sent.
            headers: Sent as they are.
            timeout_s: For all of it; None leaves that to the caller.
            follow: Whether redirects are followed.
        """
        return Exchange(
            server,
            self.request(method, url, body, headers=headers, timeout_s=timeout_s, follow=follow),
        )

    def request(
        self,
        method: str,
        url: str | URL,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        follow: bool = True,
    ) -> Any:
        """What an `Exchange` opens; arguments as for `call`."""
        patience = self._patience if timeout_s is None else aiohttp.ClientTimeout(total=timeout_s)
        return self._session.request(
            method, url, data=body, headers=headers, allow_redirects=follow, timeout=patience
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


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
    return Lost(server, error, dead=isinstance(error, aiohttp.ClientConnectorError))
