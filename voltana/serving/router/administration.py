"""The administration of a router, on a listener of its own: figures, status, draining, flushing.

It is no part of the API that clients have: whoever may send requests may not take servers out of
service. What may be asked, and by whom, is in `voltana.serving.admin.guard`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from voltana.errors import invalid
from voltana.serving.admin.door import Door, make_runner
from voltana.serving.admin.guard import guard
from voltana.serving.router.answer import refuse
from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from voltana.serving.admin.token import Token
    from voltana.serving.router.settings import RouterTable

MOST_BODY_BYTES = 65536
_LAST_WORDS_S = 1.0


class Administration:
    """The listener.

    Args:
        settings: Of the router, or of another that has its table.
        token: What opens it; None where none can be kept, so that figures alone are told.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, settings: RouterTable, token: Token | None) -> None:
        self._settings = settings
        self._token = token
        self._runner: web.AppRunner | None = None
        self.port = settings.administration_port()

    async def start(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Listen.

        Args:
            routes: What is served.

        Raises:
            ConfigError: If the address cannot be had.
        """
        settings = self._settings
        checked = guard(self._token, host=settings.admin_host, names=settings.admin_names)
        app = web.Application(middlewares=[checked, _problems], client_max_size=MOST_BODY_BYTES)
        app.router.add_routes(routes)
        self._runner = make_runner(app, handler_cancellation=True, shutdown_timeout=_LAST_WORDS_S)
        await self._runner.setup()
        self._door = Door(self._runner)
        try:
            self.port = await self._door.open(settings.admin_host, self.port)
        except OSError as error:
            await self.stop()
            raise invalid(
                "admin_host, admin_port",
                f"{settings.admin_host}:{self.port}",
                f"a free address of this machine ({error.strerror or error})",
                "Change it.",
            ) from None
        structlog.get_logger("voltana.admin").info(
            "administration listens",
            host=settings.admin_host,
            port=self.port,
            token="none" if self._token is None else self._token.where,
        )

    async def stop(self) -> None:
        """Listen no more; may be called twice."""
        if self._runner is not None:
            await self._door.close()
            await self._runner.cleanup()
            self._runner = None


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return refuse(problem)
