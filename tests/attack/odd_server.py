"""A server of the test's own, that answers some requests with bytes of the test's choice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class OddServer:
    """A server that answers honest requests, and others with bytes of the test's choice.

    Args:
        odd: Sends what it sends to a request that holds the word ``poison``.
        heads: Where the heads of honest requests go, in lower case.

    Attributes:
        odd: See above.
        poisoned: How many of those it got.
        honest: How many others.
        broken: Whether it closes the connection of all requests.
        broke: How many it closed for that.
        bodies: What it got of honest ones.
    """

    ANSWER = b'{"text": "Paris", "meta_info": {"id": "%s", "prompt_tokens": 7}}'

    def __init__(
        self,
        odd: Callable[[asyncio.StreamWriter], Awaitable[None]],
        heads: list[bytes] | None = None,
    ) -> None:
        self.odd = odd
        self._heads = [] if heads is None else heads
        self.poisoned = self.honest = self.broke = 0
        self.broken = False
        self.bodies: list[bytes] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def refuses(self, _length: int, _writer: asyncio.StreamWriter) -> bool:
        """Whether it has answered a request by its head alone, and closes the connection."""
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                if await self.refuses(length, writer):
                    break
                body = await reader.readexactly(length)
                if b"poison" in body:
                    self.poisoned += 1
                    await self.odd(writer)
                    break
                if body and self.broken:
                    self.broke += 1
                    break
                if body:
                    self.honest += 1
                    self._heads.append(head)
                    self.bodies.append(body)
                rid = _id_of(head, body)
                answer = self.ANSWER % rid
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer)
                )
        writer.close()


def _id_of(head: bytes, body: bytes) -> bytes:
    """The id under which a server knows a request: vLLM has it in a header, SGLang in the body."""
    _, named, rest = head.partition(b"x-request-id: ")
    told = json.loads(body) if body else {}
    return told["rid"].encode() if "rid" in told else rest.split(b"\r\n")[0] if named else b""
