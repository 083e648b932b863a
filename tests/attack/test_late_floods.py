"""Floods on an engine that chooses its decode server late: prompts computed, and never fetched."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.attack.beside import stands_beside
from tests.serving.late_engine import late_cluster
from tests.serving.router_client import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.serving.late_engine import LateCluster

    Flood = Callable[[LateCluster], Awaitable[None]]

AT_ONCE = 8
NAMES = map(str, count())
"""This engine's servers know requests by what clients call them: each has a name of its own."""

WORK_S, PAUSE_S = 0.01, 0.02


async def _stay(pd: LateCluster) -> None:
    """As many clients at once that want their answers: they make each other wait as well."""
    names = [next(NAMES) for _ in range(AT_ONCE)]
    await asyncio.gather(*(pd.ask(stream=True, prompt="stays", request_id=name) for name in names))
    await asyncio.sleep(PAUSE_S)


def _leaves(after_s: float, *, stream: bool) -> Flood:
    """Clients that leave after a time: before, while or after their prompts are computed."""

    async def one(pd: LateCluster) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await pd.ask(stream=stream, prompt="left", request_id=next(NAMES))

    async def flood(pd: LateCluster) -> None:
        await asyncio.gather(*(one(pd) for _ in range(AT_ONCE)))
        await asyncio.sleep(PAUSE_S)

    return flood


async def _odd(pd: LateCluster) -> None:
    """Clients that say themselves where a cache is, in every form."""
    for odd in ({"server": "prefill-0", "cache": "r/0"}, [], "x" * 1000, 10**300, {"kv": {}}):
        with contextlib.suppress(aiohttp.ClientError):
            await pd.post("/v1/completions", {"prompt": "a", "kv": odd, "request_id": next(NAMES)})
        await asyncio.sleep(0.005)


FLOODS: dict[str, Flood] = {
    "leave at once": _leaves(0.003, stream=False),
    "leave while their prompts are computed": _leaves(WORK_S / 2 + 0.003, stream=True),
    "leave before their decode": _leaves(WORK_S + 0.006, stream=False),
    "leave in their streams": _leaves(3 * WORK_S + 0.006, stream=True),
    "name caches": _odd,
}


@pytest.mark.parametrize("name", FLOODS)
def test_honest_requests_stand_beside_a_flood(name: str) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2) as pd:
            for server in pd.servers.values():
                server.work_s = WORK_S

            async def honest() -> bool:
                status, *_ = await pd.ask(prompt="honest", request_id=next(NAMES))
                return status == 200

            than = None if FLOODS[name] is _odd else partial(_stay, pd)
            await stands_beside(honest, lambda: FLOODS[name](pd), requests=50, than=than)
            await until(lambda: not pd.kept)  # nobody's cache is kept
            await until(lambda: not any(map(pd.service.ledger.in_flight, pd.servers)))
            assert pd.complaints == []

    async def limited() -> None:
        async with asyncio.timeout(300):
            await check()

    asyncio.run(limited())
