"""Feeds over sockets: agents that publish, a router that follows them, and whoever else speaks."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from tests.attack.beside import going_on
from tests.attack.own_time import OwnTime
from voltana.cluster.candidates import InstanceFacts
from voltana.cluster.ledger import Ledger
from voltana.serving.feed import FeedPublisher
from voltana.serving.router.feeds import FeedFollower, follow_feeds
from voltana.serving.router.reports import Reports
from voltana.timebase import MonotonicTime
from voltana.values import InstanceState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from voltana.serving.feed_key import FeedKey

FACTS = InstanceFacts(levels_mhz=(1005.0, 1410.0), budget_s=0.06)
FRESH_S = 1.0


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def message(instance: str, tokens: int) -> bytes:
    state = [1, tokens, 0, 0, 1200.0, 0.0]
    return msgspec.msgpack.encode(
        {"v": 1, "instance": instance, "state": state, "age_s": 0.0, "budget_s": 0.06, "rooms": []}
    )


class Router:
    """What a router does with feeds, and no more."""

    def __init__(self, addresses: dict[str, str], key: FeedKey | None = None) -> None:
        self.time = MonotonicTime()
        self.reports = Reports(FRESH_S)
        self._own = OwnTime()
        self.follower = FeedFollower(
            addresses.keys(), reports=self.reports, ledger=Ledger(), time=self.time
        )
        self._addresses, self._key = addresses, key

    async def __aenter__(self) -> Router:
        await self._own.__aenter__()
        self._task = asyncio.create_task(follow_feeds(self._addresses, self.follower, self._key))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._own.__aexit__()

    def heard(self, instance: str) -> int | None:
        """KV tokens that it last told; None where it was not heard lately.

        Agents publish in this very loop: while that has no core, none of them says anything.
        """
        report = self.reports.fresh(instance, -math.inf)  # the last one, however old
        if report is None:
            return None
        silent_s = self.time.now_s() - report.heard_s - self._own.late_s(report.heard_s)
        return report.state.kv_tokens if silent_s <= FRESH_S else None


def publisher(instance: str, key: FeedKey | None = None, address: str = "tcp://127.0.0.1:0") -> Any:
    return FeedPublisher(address, instance, MonotonicTime(), key)


@contextlib.asynccontextmanager
async def publishing(*made: tuple[FeedPublisher, int]) -> AsyncIterator[None]:
    """Agents that tell a number of tokens, a hundred times a second."""

    async def publish() -> None:
        while True:
            for feed, tokens in made:
                state = InstanceState(kv_tokens=tokens, clock_mhz=1200.0)
                feed.publish(state, age_s=0.0, facts=FACTS)
            await asyncio.sleep(0.01)

    try:
        async with going_on(publish()):
            yield
    finally:
        for feed, _ in made:
            feed.close()


async def comes(condition: Callable[[], object], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def shout(liar: zmq.Socket[bytes], *parts: bytes) -> None:
    """Say something to who listens, if anybody does."""
    with contextlib.suppress(zmq.Again):
        liar.send_multipart(parts, zmq.NOBLOCK)


@contextlib.contextmanager
def socket(kind: int, address: str, *, bind: bool = False) -> Any:
    made = zmq.Context.instance().socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    if not bind:
        made.setsockopt(zmq.PROBE_ROUTER, 1)
    bound = made.bind(address) if bind else made.connect(address)
    try:
        yield made, bound.addr
    finally:
        made.close()
