"""Puts a router together, runs it, and shuts it down without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from voltana.cluster.ledger import Ledger
from voltana.errors import invalid
from voltana.garbage import look_seldom
from voltana.serving.admin.figures import FiguresListener
from voltana.serving.admin.token import find_token
from voltana.serving.router.administration import Administration
from voltana.serving.router.app import Interface, administration, make_app
from voltana.serving.router.chooser import Chooser
from voltana.serving.router.doors import GuardedRunner
from voltana.serving.router.energy_split import EnergySplit
from voltana.serving.router.fan_out import FanOut
from voltana.serving.router.file_limit import allow_requests
from voltana.serving.router.forwarder import Forwarder
from voltana.serving.router.holding import Holding
from voltana.serving.router.keys import KeyNames, Keys, find_keys
from voltana.serving.router.metrics import Metrics
from voltana.serving.router.pages import Pages
from voltana.serving.router.pool import Pool
from voltana.serving.router.problem import Problem
from voltana.serving.router.prompt_length import PromptLength
from voltana.serving.router.public import Public
from voltana.serving.router.reports import Reports
from voltana.serving.router.routers import make_routers
from voltana.serving.router.tenants import Tenants
from voltana.serving.router.watching import Watchers, feed_key_of
from voltana.serving.router.wire import Wire

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.admin.token import Token
    from voltana.serving.engine import Engine
    from voltana.serving.router.settings import RouterTable

_LAST_WORDS_S = 1.0
_ARRIVING_S = 5.0
"""Time for bodies that are on their way at shutdown; some never come."""
_POLL_S = 0.02


class RouterService:
    """A running router; an asynchronous context manager.

    Args:
        settings: Its settings.
        time: Time source.
        engine: The engine's dialect.
        pages: What that serves; None for OpenAI's interface alone.
        keys: The servers' keys; None for none.
        token: What opens its administration; None tells figures alone.

    Attributes:
        port: Where it listens.
        administration: Its administration.
        figures: Its scrape port.
    """

    def __init__(
        self,
        settings: RouterTable,
        time: TimeSource,
        engine: Engine[Any],
        *,
        pages: Pages | None = None,
        keys: Keys | None = None,
        token: Token | None = None,
    ) -> None:
        self._settings = settings
        self._time = time
        self._engine = engine
        self._pages = pages or Pages()
        self._keys = keys or Keys()
        self._routers = make_routers(settings)
        self._log = structlog.get_logger("voltana.router")
        self._feed_key = feed_key_of(settings)
        self.port = settings.port
        self.administration = Administration(settings, token)

    async def __aenter__(self) -> RouterService:
        settings, time = self._settings, self._time
        self.pool, self.ledger = Pool(settings), Ledger()
        self.reports = Reports(settings.stale_after_s)
        self.metrics = Metrics(self.pool, self.ledger, time)
        self._wire = Wire(int(settings.limits.answer_mb * 1e6))
        self._public = public = Public.before(self._engine, settings)
        self.doors, self.gate = public.doors, public.gate
        self.intake, self.reader = public.intake, public.reader
        chooser = self._chooser = Chooser(
            self.pool,
            self._routers,
            ledger=self.ledger,
            reports=self.reports,
            time=time,
            count=self.metrics.chosen,
        )
        self.metrics.watch(chooser.wants())
        self.holding = Holding(chooser, time)
        self.metrics.also(self.holding)
        energy = EnergySplit(time.now_s)
        self.metrics.split(energy)
        self.forwarder = Forwarder(
            settings,
            self._engine,
            public=public,
            pool=self.pool,
            keys=self._keys,
            wire=self._wire,
            chooser=chooser,
            holding=self.holding,
            ledger=self.ledger,
            lengths=PromptLength(),
            metrics=self.metrics,
            tenants=Tenants(settings.tenants),
            energy=energy,
            time=time,
        )
        await self._listen()
        self._watchers = Watchers(
            settings,
            self.pool,
            self._engine,
            self._wire,
            keys=self._keys,
            holding=self.holding,
            reports=self.reports,
            ledger=self.ledger,
            energy=energy,
            time=time,
            feed_key=self._feed_key,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watchers.stop()
        await self.administration.stop()
        await self.figures.stop()
        self.doors.close()
        await self._runner.cleanup()
        await self.forwarder.close()
        await self._public.close()
        await self._wire.close()

    async def drain(self) -> None:
        """Refuse new requests, let the open ones end, then end them with a clear error."""
        forwarder, limit_s = self.forwarder, self._settings.drain_timeout_s
        forwarder.draining = True
        self._log.info("draining", open_requests=forwarder.open, timeout_s=limit_s)
        if await self._emptied(limit_s):
            return
        self._log.warning("ending open requests", open_requests=forwarder.open)
        text = f"this router was shut down, and {limit_s:g} s (drain_timeout_s) were not enough."
        forwarder.give_up_all(Problem(503, text, "shutting_down", retry_after_s=1.0))
        await self._emptied(_LAST_WORDS_S)

    async def _emptied(self, limit_s: float) -> bool:
        began_s = self._time.now_s()
        while (left := self._left(began_s)) and self._time.now_s() < began_s + limit_s:
            await asyncio.sleep(_POLL_S)
        return not left

    def _left(self, began_s: float) -> int:
        """Requests that are waited for."""
        arriving = self._time.now_s() < began_s + _ARRIVING_S
        return self.forwarder.open if arriving else self.gate.open

    async def _listen(self) -> None:
        interface = Interface(
            self.pool,
            forwarder=self.forwarder,
            fan_out=FanOut(self.pool, self._wire),
            ledger=self.ledger,
            reports=self.reports,
            wants=self._chooser.wants(),
            holding=self.holding,
            metrics=self.metrics,
            admin_key=self._keys.for_admin().get("Authorization"),
            now_s=self._time.now_s,
        )
        self.figures = FiguresListener(
            interface.figures, lambda: self.pool.serving, self._settings.metrics_names
        )
        app = make_app(interface, self.forwarder, self._pages, self.doors)
        self._runner = GuardedRunner(
            app,
            self.doors,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=_LAST_WORDS_S,
            auto_decompress=False,
            lingering_time=_LAST_WORDS_S,
        )
        await self._runner.setup()
        try:
            await self.administration.start(administration(interface, self._pages))
            if self._settings.metrics_port is not None:
                await self.figures.start(self._settings.metrics_host, self._settings.metrics_port)
            await listen(self._runner, self._settings.host, self._settings.port)
        except BaseException:
            await self.administration.stop()
            await self.figures.stop()
            await self._runner.cleanup()
            await self._wire.close()
            raise
        self.port = self._runner.addresses[0][1]
        self._log.info("router listens", host=self._settings.host, port=self.port)


async def listen(runner: web.BaseRunner, host: str, port: int) -> web.TCPSite:
    """Listen on an address; the site that does.

    Raises:
        ConfigError: If the address cannot be had.
    """
    site = web.TCPSite(runner, host, port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        why = error.strerror or str(error)
        raise invalid(
            "host, port", f"{host}:{port}", f"a free address of this machine ({why})", "Change it."
        ) from None
    return site


def make_service(
    settings: RouterTable,
    time: TimeSource,
    engine: Engine[Any],
    *,
    key_names: KeyNames,
    pages: Pages | None = None,
) -> RouterService:
    """A router whose keys and token are found where its settings, or the environment, have them.

    Args:
        settings: Its settings.
        time: Time source.
        engine: The engine's dialect.
        key_names: What the engine calls its keys.
        pages: See `RouterService`.

    Raises:
        ConfigError: If a file of keys cannot be read.
    """
    return RouterService(
        settings,
        time,
        engine,
        pages=pages,
        keys=find_keys(settings, os.environ, key_names),
        token=find_token(settings.admin_token_file, os.environ, field="admin_token_file"),
    )


def seldom_collect() -> None:
    """Have the collector look at what requests leave, and seldom at that.

    What lives as long as the process need not be looked at in every full collection, during which
    all requests wait. And a request makes hundreds of short-lived objects and no cycles, however it
    ends (tests/attack/test_router_garbage.py): looking for some less often saves a twentieth of its
    time.
    """
    gc.collect()
    gc.freeze()
    look_seldom()


async def run_router(router: RouterService, settings: RouterTable) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Args:
        router: Not running yet.
        settings: Its settings.
    """
    allow_requests(settings.max_in_flight, settings.limits.unfinished)
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with router as service:
        await service.reader.warm()
        seldom_collect()
        await signals.get()
        draining = asyncio.create_task(service.drain())
        again = asyncio.create_task(signals.get())
        await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, again):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
