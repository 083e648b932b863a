"""By which number the official router knows a decode server.

Its target header takes an index into the decode workers that it can use at that moment, in order of
registration, not in that of its command line: when one of them fails, those behind it move up. An
index beyond the last is answered with 503, that of a worker that has just died with 502. Which ones
it can use is in its list but for a circuit breaker that is open, so every answer is checked against
the server that was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from voltana.serving.router.problem import Lost

if TYPE_CHECKING:
    from voltana.ports import TimeSource
    from voltana.serving.router.wire import Wire

TIMEOUT_S = 2.0
KEPT_PERIODS = 3.0
"""A list is used for so many periods after it was read."""

REFUTED_S = 10.0
"""How long numbers that proved wrong are not used, unless the list changes: an open circuit breaker
closes again, and the list shows neither."""


class WorkerList:
    """The official router's decode workers.

    Args:
        upstream: Its URL.
        wire: HTTP client.
        time: Time source.
        period_s: Time between two looks.
    """

    def __init__(self, upstream: str, wire: Wire, *, time: TimeSource, period_s: float) -> None:
        self._url = upstream + "/workers"
        self._wire = wire
        self._time = time
        self._period_s = period_s
        self._usable: tuple[str, ...] = ()
        self._read_s = -math.inf
        self._refuted: tuple[str, ...] | None = None
        self._refuted_s = -math.inf
        self._log = structlog.get_logger("voltana.steer")

    async def run(self) -> None:
        """Keep it up to date until cancelled."""
        while True:
            with contextlib.suppress(Lost, ValueError):
                await self._read()
            await asyncio.sleep(self._period_s)

    def index_of(self, url: str) -> int | None:
        """The index of a server that is ready; None where there is any doubt."""
        now_s = self._time.now_s()
        if now_s - self._read_s > KEPT_PERIODS * self._period_s:
            return None
        if self._usable == self._refuted and now_s - self._refuted_s < REFUTED_S:
            return None
        # Two workers of one address, as with data parallelism, cannot be told apart.
        return self._usable.index(url) if self._usable.count(url) == 1 else None

    def refute(self, url: str, index: int, routed_to: str) -> None:
        """The request with the index of `url` went elsewhere: the numbers are wrong for now."""
        if self.index_of(url) != index:
            return  # those of an earlier list, or known to be wrong
        self._log.warning("numbers do not hold, not steering", meant=url, routed=routed_to)
        self._refuted, self._refuted_s = self._usable, self._time.now_s()

    def take(self, raw: bytes) -> None:
        """Use a list.

        Raises:
            ValueError: If it has another form.
        """
        try:
            workers: list[dict[str, Any]] = orjson.loads(raw)["workers"]
            decode = [w for w in workers if w["worker_type"] == "decode"]
            usable = tuple(str(w["url"]).rstrip("/") for w in decode if _is_ready(w))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"unknown form of /workers: {error!r}") from error
        self._usable, self._read_s = usable, self._time.now_s()

    async def _read(self) -> None:
        call = self._wire.call("official router", "GET", self._url, timeout_s=TIMEOUT_S)
        async with call as reply:
            if reply.status == 200:
                self.take(await reply.read())


def _is_ready(worker: dict[str, Any]) -> bool:
    return bool(worker.get("is_healthy")) and worker.get("status", "ready") == "ready"
