"""The background jobs that keep what is known of servers up to date."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import structlog

from voltana.cluster.intents import INTENDED_EVERY_S
from voltana.serving.feed_key import check_leaves, find_feed_key
from voltana.serving.router.feeds import FeedFollower, follow_feeds
from voltana.serving.router.loads import LoadsPoller
from voltana.serving.router.prober import Prober
from voltana.serving.router.routers import own_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.engine import Engine
    from voltana.serving.feed_key import FeedKey
    from voltana.serving.router.energy_split import EnergySplit
    from voltana.serving.router.holding import Holding
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.reports import Reports
    from voltana.serving.router.settings import RouterTable
    from voltana.serving.router.wire import Wire

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


def feed_key_of(settings: RouterTable) -> FeedKey | None:
    """The key that agents and this router share; None for none.

    Raises:
        ConfigError: If it cannot be used, or a feed of another host needs one.
    """
    key = find_feed_key(settings.feed_key_file, os.environ)
    for backend in settings.backends:
        if backend.feed is not None:
            check_leaves("feed", backend.feed, key, open_to_all=settings.feed_open)
    return key


def _account(energy: EnergySplit | None, pool: Pool) -> Callable[[str, float], None]:
    """Takes what an instance says that it has used."""

    def told(instance: str, energy_j: float) -> None:
        if energy is not None:
            energy.told(instance, pool.named(instance).role.value, energy_j)

    return told


class Watchers:
    """Health checks, polls of loads, and agents' feeds; they run from the start.

    Args:
        settings: Periods and addresses.
        keys: The servers' keys.
        holding: Says what its routers intend, which agents are told; None tells them nothing.
        pool: The servers.
        engine: Knows how servers are asked for their load.
        wire: HTTP client.
        reports: Where reports go.
        ledger: Reconciled with each.
        energy: Told what instances have used; None where nobody keeps account.
        time: Time source.
        feed_key: What is shared with agents (`feed_key_of`).
    """

    def __init__(
        self,
        settings: RouterTable,
        pool: Pool,
        engine: Engine[Any],
        wire: Wire,
        *,
        keys: Keys,
        holding: Holding | None = None,
        reports: Reports,
        ledger: Ledger,
        energy: EnergySplit | None = None,
        time: TimeSource,
        feed_key: FeedKey | None,
    ) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("voltana.router")
        for backend in pool:
            prober = Prober(
                backend,
                wire,
                path=settings.health_path,
                period_s=settings.health_period_s,
                timeout_s=settings.health_timeout_s,
            )
            self.also(prober.run)
            if settings.loads_period_s > 0:
                poller = LoadsPoller(
                    backend,
                    engine,
                    wire,
                    reports=reports,
                    ledger=ledger,
                    time=time,
                    period_s=settings.loads_period_s,
                    keys=keys,
                )
                self.also(poller.run)
        feeds = {b.name: b.feed for b in pool if b.feed is not None}
        if feeds:
            follower = FeedFollower(
                feeds.keys(),
                reports=reports,
                ledger=ledger,
                time=time,
                modules=own_modules(settings),
                energy=_account(energy, pool),
            )
            self.also(lambda: follow_feeds(feeds, follower, feed_key))
            if holding is not None:
                self.also(lambda: _tell_intents(holding, follower))

    def also(self, job: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run another job beside them; if it fails, the log says so and it begins anew."""
        self._tasks.append(asyncio.create_task(self._again_and_again(job)))

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again_and_again(self, job: Callable[[], Coroutine[object, object, None]]) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                await job()
            except Exception as error:  # noqa: BLE001  (whatever it is, the others go on)
                self._log.exception("a background job failed; it begins anew", error=repr(error))
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


async def _tell_intents(holding: Holding, follower: FeedFollower) -> None:
    """Tell agents what is intended for their instances, until cancelled."""
    while True:
        await asyncio.sleep(INTENDED_EVERY_S)
        holding.tell_intents(follower.intend)
