"""Listens for the administration: few connections at a time, of which the oldest gives way.

Whoever asks is done within a moment. A connection that stays is one of those that only hold places,
so that honest ones are never refused for them, and no more files are open than `MOST_OPEN`.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from voltana.serving.inlets import Inlet, Inlets
from voltana.serving.runner import Runner

if TYPE_CHECKING:
    from aiohttp import web

MOST_OPEN = 64
BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted; of one more the client tries again
after a second, however soon there is room."""

KEEP_S = 15.0
"""Idle connections of scrapers are kept for so long."""

LINGER_S = 1.0
"""How long what follows a refused request is read, so that its client gets to see why."""


def make_runner(app: web.Application, **options: Any) -> web.AppRunner:
    """Runs an application of administration; bodies are never unpacked.

    The HTTP server unpacks before anybody has been asked for a token, and a megabyte may stand for
    gigabytes: seconds in which the whole process does nothing else.

    Args:
        app: The application.
        options: Those of `aiohttp.web.AppRunner`.
    """
    return Runner(
        app,
        access_log=None,
        keepalive_timeout=KEEP_S,
        lingering_time=LINGER_S,
        auto_decompress=False,
        **options,
    )


class Door:
    """A listening address of an application.

    Args:
        runner: The application's, set up.
    """

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._inlets: Inlets | None = None
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port, which differs from `port` if that is 0.

        Raises:
            OSError: If the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._inlets = Inlets(at_once=math.inf)  # there are few connections
        self._server = await loop.create_server(self._enter, host, port, backlog=BACKLOG)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more; may be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _enter(self) -> asyncio.Protocol:
        """A connection comes in."""
        serve = self._runner.server
        assert serve is not None
        assert self._inlets is not None
        asyncio.get_running_loop().call_soon(self._make_room)
        return Inlet(self._inlets, serve)

    def _make_room(self) -> None:
        """Those that are too many go, the oldest first."""
        server = self._runner.server
        for connection in () if server is None else server.connections[:-MOST_OPEN]:
            if connection.transport is not None:
                connection.transport.abort()
