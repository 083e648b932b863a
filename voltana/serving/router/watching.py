"""The background jobs that keep what is known of servers up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from voltana.serving.router.feeds import FeedFollower, follow_feeds
from voltana.serving.router.loads import LoadsPoller
from voltana.serving.router.prober import Prober
from voltana.serving.router.routers import own_modules

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import aiohttp

    from voltana.ports import TimeSource
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.ledger import Ledger
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.reports import Reports
    from voltana.serving.router.settings import RouterTable


class Watchers:
    """Health checks, polls of loads, and agents' feeds; they run from the start.

    Args:
        settings: Periods and addresses.
        keys: The servers' keys.
        pool: The servers.
        session: HTTP client.
        reports: Where reports go.
        ledger: Reconciled with each.
        time: Time source.
    """

    def __init__(
        self,
        settings: RouterTable,
        pool: Pool,
        session: aiohttp.ClientSession,
        *,
        keys: Keys,
        reports: Reports,
        ledger: Ledger,
        time: TimeSource,
    ) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("voltana.router")
        for backend in pool:
            prober = Prober(
                backend,
                session,
                path=settings.health_path,
                period_s=settings.health_period_s,
                timeout_s=settings.health_timeout_s,
            )
            self.also(prober.run())
            if settings.loads_period_s > 0:
                poller = LoadsPoller(
                    backend,
                    session,
                    reports=reports,
                    ledger=ledger,
                    time=time,
                    period_s=settings.loads_period_s,
                    headers=keys.usual(),
                )
                self.also(poller.run())
        feeds = {b.name: b.feed for b in pool if b.feed is not None}
        if feeds:
            follower = FeedFollower(
                feeds.keys(),
                reports=reports,
                ledger=ledger,
                time=time,
                modules=own_modules(settings),
            )
            self.also(follow_feeds(feeds, follower))

    def also(self, job: Coroutine[object, object, None]) -> None:
        """Run another job beside them; if it dies, the log says so."""
        task = asyncio.create_task(job)
        task.add_done_callback(self._report_death)
        self._tasks.append(task)

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _report_death(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a background job died", error=repr(error), exc_info=error)
