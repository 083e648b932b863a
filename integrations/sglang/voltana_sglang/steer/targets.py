"""By which number the official router knows a decode server.

Its target header takes an index into its own list of decode workers, which stands in the order in
which they were registered, not in that of its command line. An index of a worker that it holds
unhealthy is answered with 503, one of a worker that has just died with 502, so a number is given
only for a worker that is known to be ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import structlog

if TYPE_CHECKING:
    from voltana.ports import TimeSource

TIMEOUT_S = 2.0
KEPT_PERIODS = 3.0
"""A list is used for so many periods after it was read."""


class WorkerList:
    """The official router's decode workers.

    Args:
        upstream: Its URL.
        session: HTTP client.
        time: Time source.
        period_s: Time between two looks.
    """

    def __init__(
        self, upstream: str, session: aiohttp.ClientSession, *, time: TimeSource, period_s: float
    ) -> None:
        self._url = upstream + "/workers"
        self._session = session
        self._time = time
        self._period_s = period_s
        self._order: tuple[str, ...] = ()
        self._ready: frozenset[str] = frozenset()
        self._read_s = -math.inf
        self._refuted: tuple[str, ...] | None = None
        self._log = structlog.get_logger("voltana.steer")

    async def run(self) -> None:
        """Keep it up to date until cancelled."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
                await self._read()
            await asyncio.sleep(self._period_s)

    def index_of(self, url: str) -> int | None:
        """The index of a server that is ready; None where there is any doubt."""
        if self._time.now_s() - self._read_s > KEPT_PERIODS * self._period_s:
            return None
        if url not in self._ready or self._order == self._refuted:
            return None
        return self._order.index(url)

    def refute(self, url: str, routed_to: str) -> None:
        """The request for `url` went elsewhere: no number of this list is used any more."""
        if self._refuted != self._order:
            self._log.warning("numbers do not hold, not steering", meant=url, routed=routed_to)
        self._refuted = self._order

    def take(self, raw: bytes) -> None:
        """Use a list.

        Raises:
            ValueError: If it has another form.
        """
        try:
            workers: list[dict[str, Any]] = orjson.loads(raw)["workers"]
            decode = [w for w in workers if w["worker_type"] == "decode"]
            order = tuple(str(w["url"]).rstrip("/") for w in decode)
            ready = {url for url, w in zip(order, decode, strict=True) if _is_ready(w)}
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"unknown form of /workers: {error!r}") from error
        self._order, self._read_s = order, self._time.now_s()
        # Two workers of one address, as with data parallelism, cannot be told apart.
        self._ready = frozenset(url for url in ready if order.count(url) == 1)

    async def _read(self) -> None:
        async with self._session.get(
            self._url, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        ) as reply:
            if reply.status == 200:
                self.take(await reply.read())


def _is_ready(worker: dict[str, Any]) -> bool:
    return bool(worker.get("is_healthy")) and worker.get("status", "ready") == "ready"
