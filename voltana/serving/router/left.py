"""The connection of a call that nobody waits for any more: used again once its answer has come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltana.serving.frames import let_go
from voltana.serving.router.connections import BROKEN, answer_of

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.client_proto import ResponseHandler
    from yarl import URL

    from voltana.serving.router.connections import Connections

REST_S = 0.5
"""A server that was told to stop ends its answer sooner than this, or its connection is closed."""

REST_BYTES = 1 << 20
"""It sends no more than this."""


class Left:
    """What is left of a call: the request was sent, and its answer not read to the end.

    To close the connection would cost the next request a new one: clients that leave would make
    those that stay wait for the server to accept it.

    Args:
        connections: All connections.
        url: Where the call went.
        protocol: Its connection.
        content: Its answer as far as the head has come; None before.
    """

    __slots__ = ("_connections", "_content", "_protocol", "_url")

    def __init__(
        self,
        connections: Connections,
        url: URL,
        protocol: ResponseHandler,
        content: StreamReader | None,
    ) -> None:
        self._connections = connections
        self._url = url
        self._protocol = protocol
        self._content = content

    async def read(self) -> None:
        """Read the rest, and keep the connection; it is closed if that takes too long."""
        taken, content = 0, self._content
        try:
            async with asyncio.timeout(REST_S):
                if content is None:
                    _, content = await answer_of(self._protocol)
                while taken <= REST_BYTES and (chunk := await content.readany()):
                    taken += len(chunk)
        except BROKEN as error:
            let_go(error)  # the connection keeps it
        finally:
            # Closes what is not at its end, or has not even begun.
            self._connections.keep(self._url, self._protocol, content)

    def close(self) -> None:
        """Close it."""
        self._connections.drop(self._protocol)
