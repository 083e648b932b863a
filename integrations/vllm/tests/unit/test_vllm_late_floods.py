"""Floods of clients that leave: the KV caches that prefill servers hold are free again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest
from fake_servers import vllm_cluster
from test_vllm_held_caches import held
from test_vllm_router import run, texts, tidy

from tests.serving.late_servers import words_of
from tests.serving.router_client import until
from tests.serving.work_gate import PATIENT

CLIENTS = 120
LEASE_S = 1.0
WORK_S = 0.02


async def leave(pd, rng, stream):
    """Ask, and go after a time in which anything may be under way."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(0.0, 12 * WORK_S)):
            await pd.ask(stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_all_caches_of_a_flood_are_free_when_the_lease_has_ended(stream):
    """And so are its places: what comes after it finds prefill and decode servers idle."""

    async def check():
        rng = random.Random(stream)
        async with vllm_cluster(prefill=2, decode=2, kv_lease_s=LEASE_S) as pd:
            for server in pd.servers.values():
                server.work_s, server.lease_s = WORK_S, LEASE_S
            flood = [asyncio.create_task(leave(pd, rng, stream)) for _ in range(CLIENTS)]
            await asyncio.gather(*flood)
            await pd.quiet()
            gone_s = time.monotonic()
            await until(lambda: not pd.kept)
            await until(lambda: not any(held(pd, name).requests for name in pd.servers))
            patience_s = 1.0 + 5 * WORK_S  # of a router that a crowded machine keeps waiting
            assert time.monotonic() - gone_s <= LEASE_S + patience_s
            assert not any(map(pd.service.ledger.in_flight, pd.servers))
            assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            await tidy(pd)

    run(check)


def test_caches_of_which_no_decode_server_heard_are_free_before_their_lease_ends():
    """Which is of 30 s: the clients leave while decode servers are full."""

    async def check():
        async with vllm_cluster(prefill=2, decode=1, attempts=1, **PATIENT) as pd:
            prefills = pd.servers["prefill-0"], pd.servers["prefill-1"]
            # No answer is under way when clients leave, nor when what they left is given up.
            for server in prefills:
                server.gate.close()
            flood = [asyncio.create_task(pd.ask()) for _ in range(CLIENTS // 5)]
            await until(lambda: sum(server.gate.waiting for server in prefills) == len(flood))
            pd.service.pool.named("decode-0").draining = True
            for task in flood[::2]:
                task.cancel()
            await until(lambda: sum(server.cancelled for server in prefills) == len(flood) // 2)
            for server in prefills:
                server.gate.open()
            answers = await asyncio.gather(*flood, return_exceptions=True)
            assert {a[0] for a in answers if isinstance(a, tuple)} <= {503}
            await until(lambda: not pd.kept)  # which waits for less than a lease
            await until(lambda: not any(held(pd, name).requests for name in pd.servers))
            await tidy(pd)

    run(check)
