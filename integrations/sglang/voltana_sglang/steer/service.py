"""Puts the steering proxy together and runs it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import orjson
import structlog
from aiohttp import web

from voltana.cluster.ledger import Ledger
from voltana.serving.admin.token import find_token
from voltana.serving.router.administration import Administration
from voltana.serving.router.app import errors_explained
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.doors import GuardedRunner
from voltana.serving.router.file_limit import allow_requests
from voltana.serving.router.keys import find_keys
from voltana.serving.router.pool import Pool
from voltana.serving.router.problem import JSON_TYPE, Problem
from voltana.serving.router.prompt_length import PromptLength
from voltana.serving.router.public import Public
from voltana.serving.router.reports import Reports
from voltana.serving.router.routers import make_routers
from voltana.serving.router.service import listen
from voltana.serving.router.watching import Watchers, feed_key_of
from voltana.serving.router.wire import Wire
from voltana.values import Role
from voltana_sglang.dialect.engine import SglangEngine
from voltana_sglang.dialect.keys import KEY_NAMES
from voltana_sglang.dialect.pages import PAGES
from voltana_sglang.steer.api_paths import is_api
from voltana_sglang.steer.proxy import Proxy
from voltana_sglang.steer.targets import WorkerList

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.admin.token import Token
    from voltana_sglang.steer.settings import SteerTable

STATUS = "/steer/status"

_LAST_WORDS_S = 1.0
_POLL_S = 0.02


class SteerService:
    """A running proxy; an asynchronous context manager.

    Args:
        settings: Its settings.
        time: Time source.
        token: What opens its administration; None tells its health alone.

    Attributes:
        port: Where it listens.
        administration: Its administration.
    """

    def __init__(self, settings: SteerTable, time: TimeSource, token: Token | None = None) -> None:
        self._settings = settings
        self._time = time
        _, self._router = make_routers(settings)
        self._keys = find_keys(settings, os.environ, KEY_NAMES)
        self._log = structlog.get_logger("voltana.steer")
        self._feed_key = feed_key_of(settings)
        self.port = settings.port
        self.administration = Administration(settings, token)

    async def __aenter__(self) -> SteerService:
        settings, time = self._settings, self._time
        self.pool, ledger = Pool(settings), Ledger()
        reports = Reports(settings.stale_after_s)
        self._wire = Wire()
        self.workers = WorkerList(
            settings.upstream, self._wire, time=time, period_s=settings.workers_period_s
        )
        leg = RoleChooser(
            self.pool.of(Role.DECODE),
            self._router,
            ledger=ledger,
            reports=reports,
            time=time,
            count=lambda _role, _source: None,
        )
        self._wants = leg.wants
        engine = SglangEngine(settings)
        self._guarded = Public.before(engine, settings)
        self.proxy = Proxy(
            settings.upstream,
            self._wire,
            leg=leg,
            workers=self.workers,
            ledger=ledger,
            lengths=PromptLength(),
            time=time,
            public=self._guarded,
            unread_s=settings.limits.unread_s,
        )
        await self._listen()
        self._watchers = Watchers(
            settings,
            self.pool,
            engine,
            self._wire,
            keys=self._keys,
            reports=reports,
            ledger=ledger,
            time=time,
            feed_key=self._feed_key,
        )
        self._watchers.also(self.workers.run)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watchers.stop()
        await self.administration.stop()
        self._guarded.doors.close()
        await self._runner.cleanup()
        await self._guarded.close()
        await self._wire.close()

    async def drain(self) -> None:
        """Stop listening, refuse what comes on open connections, and let the open requests end."""
        self.proxy.draining = True
        await self._site.stop()
        ends_s = self._time.now_s() + self._settings.drain_timeout_s
        while self.proxy.open and self._time.now_s() < ends_s:
            await asyncio.sleep(_POLL_S)

    async def _public(self, request: web.Request) -> web.StreamResponse:
        """Pass on what is part of the API; the official router's administration is not."""
        if not is_api(request.method, request.path, self._settings.api_paths):
            raise Problem(
                404,
                f"{request.method} {request.path} is served by the administration's own listener "
                "alone (admin_host, admin_port), or by the official router. Paths of the API that "
                "are missing here are named in steer.api_paths.",
                "moved",
            )
        return await self.proxy.public(request)

    async def _official(self, request: web.Request) -> web.StreamResponse:
        """Pass on what the administration asks of the official router, without its token."""
        body = await request.read()
        return await self.proxy.serve(request, body, without=frozenset({"authorization"}))

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=503 if self.proxy.draining else 200)

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        proxy = self.proxy
        value = {
            "upstream": self._settings.upstream,
            "steered": proxy.steered,
            "unsteered": proxy.unsteered,
            "repeated": proxy.repeated,
            "open_requests": proxy.open,
            "routing": self._wants.figures(),
            "backends": [
                {
                    "name": b.name,
                    "url": b.url,
                    "healthy": b.healthy,
                    "why": b.why,
                    "target": self.workers.index_of(b.url),
                }
                for b in self.pool
            ],
        }
        return web.Response(body=orjson.dumps(value), headers={"Content-Type": JSON_TYPE})

    async def _listen(self) -> None:
        doors = self._guarded.doors
        app = web.Application(middlewares=[doors.attended(), errors_explained(PAGES.inference)])
        app.router.add_route("*", "/{path:.*}", self._public)
        self._runner = GuardedRunner(
            app,
            doors,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=_LAST_WORDS_S,
            auto_decompress=False,
            lingering_time=_LAST_WORDS_S,
        )
        await self._runner.setup()
        try:
            await self.administration.start(
                [
                    web.get("/health", self._health),
                    web.get(STATUS, self._status),
                    web.route("*", "/{path:.*}", self._official),
                ]
            )
            self._site = await listen(self._runner, self._settings.host, self._settings.port)
        except BaseException:
            await self.administration.stop()
            await self._runner.cleanup()
            await self._wire.close()
            raise
        self.port = self._runner.addresses[0][1]
        self._log.info("steering", port=self.port, upstream=self._settings.upstream)


async def run_steer(settings: SteerTable, time: TimeSource) -> None:
    """Serve until SIGTERM or SIGINT, then let open requests end."""
    allow_requests(settings.max_in_flight, settings.limits.unfinished)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    token = find_token(settings.admin_token_file, os.environ, field="steer.admin_token_file")
    async with SteerService(settings, time, token) as service:
        await stop.wait()
        await service.drain()
