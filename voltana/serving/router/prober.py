"""Active health checks of one server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import structlog

if TYPE_CHECKING:
    from voltana.serving.router.pool import Backend


class Prober:
    """Asks a server for its health: periodically, and at growing intervals while it is ejected.

    Args:
        backend: The server.
        session: HTTP client.
        path: What is asked for.
        period_s: Time between two checks of a healthy server.
        timeout_s: A check that takes longer has failed.
    """

    def __init__(
        self,
        backend: Backend,
        session: aiohttp.ClientSession,
        *,
        path: str,
        period_s: float,
        timeout_s: float,
    ) -> None:
        self._backend = backend
        self._session = session
        self._url = backend.url + path
        self._period_s = period_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._ejected = asyncio.Event()
        self._log = structlog.get_logger("voltana.router").bind(backend=backend.name)
        backend.on_eject = self._on_eject

    async def run(self) -> None:
        """Check until cancelled."""
        backend = self._backend
        while True:
            was_healthy = backend.healthy
            await self._check()
            if backend.healthy and not was_healthy:
                self._log.info("backend serves")
            await self._rest()

    async def _rest(self) -> None:
        """Wait for the next check; an ejection meanwhile starts the wait of an ejected one."""
        backend = self._backend
        if backend.healthy:
            self._ejected.clear()
            try:
                await asyncio.wait_for(self._ejected.wait(), self._period_s)
            except TimeoutError:
                return
        await asyncio.sleep(backend.back_off_s)

    async def _check(self) -> None:
        try:
            async with self._session.get(self._url, timeout=self._timeout) as reply:
                await reply.read()
                if reply.status == 200:
                    self._backend.passed_check()
                else:
                    self._backend.failed_check(
                        f"health check answered {reply.status}", dead=reply.status == 503
                    )
        except aiohttp.ClientConnectorError as error:
            self._backend.failed_check(f"health check: {error}", dead=True)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._backend.failed_check(f"health check: {str(error) or type(error).__name__}")

    def _on_eject(self) -> None:
        self._ejected.set()
        self._log.warning(
            "backend ejected", why=self._backend.why, back_off_s=self._backend.back_off_s
        )
