"""The scrape port: figures for Prometheus on a listener of their own, apart from all control.

Nothing but ``GET /metrics`` and ``GET /health`` is known here, so that the port may be opened to a
network on which the control endpoint and the administration stay closed. Figures are worked out at
most so often, however often somebody asks, and who asks often waits (`pace`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aiohttp import web

from voltana.errors import invalid
from voltana.serving.admin.door import Door, make_runner
from voltana.serving.admin.guard import from_elsewhere, is_loopback, refused
from voltana.serving.admin.pace import Pace, ToldAgain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aiohttp.typedefs import Middleware


class FiguresListener:
    """Listens for scrapers.

    Args:
        figures: The text, and its content type.
        healthy: Whether all is well, in the sense of the control endpoint's ``/health``.
        names: Names, beside addresses, ``localhost`` and this host's own, under which it may be
            asked.

    Attributes:
        port: Where it listens; 0 before it does.
    """

    def __init__(
        self,
        figures: Callable[[], tuple[bytes, str]],
        healthy: Callable[[], bool],
        names: Collection[str] = (),
    ) -> None:
        self._figures = figures
        self._healthy = healthy
        host_name = socket.gethostname().lower()
        own = (host_name, host_name.partition(".")[0])
        self._names = frozenset((*own, *(name.lower() for name in names)))
        self._runner: web.AppRunner | None = None
        self._pace = Pace()
        self._told = ToldAgain()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            ConfigError: If the address cannot be had.
        """
        app = web.Application(middlewares=[self._guard(loopback=is_loopback(host))])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        self._runner = make_runner(app)
        await self._runner.setup()
        self._door = Door(self._runner)
        try:
            self.port = await self._door.open(host, port)
        except OSError as error:
            await self.stop()
            raise invalid(
                "metrics_host, metrics_port",
                f"{host}:{port}",
                f"a free address of this machine ({error.strerror or error})",
                "Change it.",
            ) from None

    async def stop(self) -> None:
        """Listen no more; may be called twice."""
        if self._runner is not None:
            await self._door.close()
            await self._runner.cleanup()
            self._runner = None

    def _guard(self, *, loopback: bool) -> Middleware:
        @web.middleware
        async def check(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            await self._pace.turn()
            refusal = from_elsewhere(request, loopback=loopback, names=self._names)
            if refusal is not None:
                return refusal
            try:
                return await handler(request)
            except web.HTTPException as error:
                text = f"{error.reason}: GET /metrics and /health are served here"
                return refused(error.status, text, error.headers.get("Allow"))

        return check

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        return await self._told.answer(self._worked_out, again=True)

    async def _worked_out(self) -> web.Response:
        text, kind = self._figures()
        return web.Response(body=text, headers={"Content-Type": kind})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self._healthy() else 503)
