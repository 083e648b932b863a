"""Servers fail at random and restart while clients ask, stream, and go away."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
from router_answers import ask, completed, run
from router_cluster import Cluster, cluster, until


@pytest.mark.parametrize("seed", range(4))
def test_under_a_storm_each_request_ends_exactly_once(seed: int) -> None:
    """Servers fail at random and restart while clients ask, stream, and go away."""

    async def check() -> None:
        # Long enough that a machine without a core to spare fails no server that answers.
        limits_s = {"first_token_timeout_s": 3.0, "timeout_s": 15.0, "health_timeout_s": 5.0}
        async with cluster(prefill=2, decode=2, eject_after=2, **limits_s) as pd:
            for server in pd.servers.values():
                server.token_s = 0.004
            gate = asyncio.Semaphore(AT_ONCE)
            outcomes = await asyncio.gather(*(_client(pd, seed, i, gate) for i in range(120)))
            await pd.quiet()
            counted = _requests_ended((await pd.ask_admin("GET", "/metrics"))[1])
            left = outcomes.count("left")
            assert len(outcomes) == 120
            assert outcomes.count("completed") > 10
            assert 120 - left <= counted <= 120
            assert pd.complaints == []

    run(check, 120.0)


AT_ONCE = 12
"""Requests that are open, so that a machine without a core to spare is in time for each."""

FAULTS = ("500", "503", "reset", "sse-error", "reset-mid", "cut", "hang")


async def _client(pd: Cluster, seed: int, number: int, gate: asyncio.Semaphore) -> str:
    """One request, before which something may break: what, whoever is scheduled first."""
    chance = random.Random(f"{seed}, {number}")
    await asyncio.sleep(number * 0.012)
    async with gate:
        return await _request(pd, chance)


async def _request(pd: Cluster, chance: random.Random) -> str:
    # A machine without a core to spare brings servers back later than all of the storm would take.
    await until(lambda: pd.service.pool.serving)
    server = pd.servers[chance.choice(list(pd.servers))]
    fate = chance.random()
    if fate < 0.05:
        await server.restart(0.05)
    elif fate < 0.4:
        server.faults.append(chance.choice(FAULTS))
    stream = chance.random() < 0.5
    leaves = chance.random() < 0.1
    try:
        async with asyncio.timeout(0.02 if leaves else None):
            answer = await ask(pd, stream=stream)
    except TimeoutError:
        return "left"
    except aiohttp.ClientError as error:
        pytest.fail(f"an answer without an end: {error!r}")
    return "completed" if completed(answer, stream=stream) else "error"


def _requests_ended(metrics: str) -> int:
    return sum(
        int(float(line.rsplit(" ", 1)[1]))
        for line in metrics.splitlines()
        if line.startswith("voltana_router_requests_total")
    )
