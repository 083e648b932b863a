"""KV caches that prefill servers hold: counted in routing, and free again within a stated time."""

from __future__ import annotations

import asyncio
import time

import pytest
from fake_servers import FETCHED_BY, vllm_cluster
from test_vllm_router import run, texts, tidy

from tests.serving.late_servers import words_of
from tests.serving.router_client import until
from tests.serving.work_gate import PATIENT
from voltana.errors import ConfigError
from voltana.serving.router import aborts, attempt
from voltana.values import NO_RESERVATION
from voltana_vllm.dialect.settings import VllmRouterTable

STREAMS = pytest.mark.parametrize("stream", [False, True])
LEASE_S = 0.6
"""Soon over."""

LONG_LEASE_S = 60.0
"""Not over while a test looks, nor while it waits for what must not wait for a lease."""

STALL_S = 1.5
"""A busy machine may stand still for so long."""

KEPT_S, ABORT_S = 3.0, 4.0
"""Limits of the router that such a machine keeps: its own are shorter."""


def held(pd, name="prefill-0", *, at_s=None):
    """What the router takes a server to hold, now or at a moment."""
    return pd.service.ledger.caches.held(name, time.monotonic() if at_s is None else at_s)


def test_a_cache_counts_from_the_end_of_the_prefill_to_the_first_token():
    async def check():
        async with vllm_cluster(prefill=1, decode=1, **PATIENT) as pd:
            pd.servers["decode-0"].gate.close()
            began_s = time.monotonic()
            asked = asyncio.create_task(pd.ask(stream=True, prompt=[97]))
            await until(lambda: held(pd).requests)
            held_s = time.monotonic()
            assert held(pd).prompt_tokens == 1
            _, body = await pd.ask_admin("GET", "/metrics")
            assert 'backend_held_kv_tokens{backend="prefill-0",role="prefill"} 1.0' in body
            assert pd.service.ledger.in_flight("prefill-0") == 0
            let_go_s = time.monotonic()
            pd.servers["decode-0"].gate.open()
            assert texts(await asked, stream=True) == words_of("a")
            assert held(pd) == NO_RESERVATION
            usual_s = pd.service.ledger.caches.usual_s
            assert let_go_s - held_s <= usual_s <= time.monotonic() - began_s
            await tidy(pd)

    run(check)


def test_a_whole_answer_counts_for_as_long_as_streams_usually_do():
    async def check():
        async with vllm_cluster(prefill=1, decode=1, **PATIENT) as pd:
            decode = pd.servers["decode-0"]
            decode.work_s = 0.1
            assert texts(await pd.ask(stream=True), stream=True)
            usual_s = pd.service.ledger.caches.usual_s
            decode.gate.close()
            began_s = time.monotonic()
            asked = asyncio.create_task(pd.ask())
            await until(lambda: decode.gate.waiting)
            assert held(pd, at_s=began_s + usual_s).requests == 1
            assert held(pd, at_s=time.monotonic() + usual_s) == NO_RESERVATION
            decode.gate.open()
            assert texts(await asked, stream=False) == words_of("a")
            assert pd.service.ledger.caches.usual_s == usual_s  # nothing was seen
            await tidy(pd)

    run(check)


@STREAMS
def test_a_client_that_leaves_a_decode_leg_leaves_a_cache_until_the_lease_ends(stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=1, kv_lease_s=LEASE_S) as pd:
            pd.servers["prefill-0"].lease_s = LEASE_S
            pd.servers["decode-0"].faults.append("hang")
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: pd.servers["decode-0"].seen)
            leaves_s = time.monotonic()
            asked.cancel()
            await pd.quiet()
            assert held(pd, at_s=leaves_s + 0.9 * LEASE_S).requests == 1
            assert held(pd, at_s=time.monotonic() + LEASE_S) == NO_RESERVATION
            await tidy(pd)  # the server's own lease has ended as well

    run(check)


@STREAMS
@pytest.mark.parametrize("way_s", [0.0, 0.001, 0.02, 0.2])
def test_a_client_that_leaves_as_the_prefill_server_answers_leaves_no_cache_behind(
    stream, way_s, monkeypatch
):
    """The server is done by then, and keeps the cache; its answer takes a while to the router."""
    monkeypatch.setattr(attempt, "KEPT_DRAIN_S", KEPT_S)

    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            prefill, asked = pd.servers["prefill-0"], None
            keep = prefill._keep

            def keep_and_lose_the_client(cache):
                keep(cache)
                asked.cancel()
                prefill.way_s = way_s

            prefill._keep = keep_and_lose_the_client
            asked = asyncio.create_task(pd.ask(stream=stream))
            await asyncio.wait([asked])
            assert pd.kept
            left_s = time.monotonic()
            await until(lambda: not pd.kept and not held(pd).requests)
            assert time.monotonic() - left_s < prefill.lease_s / 4
            prefill._keep, prefill.way_s = keep, 0.0
            assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            assert not prefill.cancelled
            await tidy(pd)

    run(check)


async def leave_as_all_are_kept(pd, clients=1):
    """Ask, and go at the moment at which the prefill server begins to keep the last cache."""
    prefill = pd.servers["prefill-0"]
    keep = prefill._keep

    def keep_and_lose_the_clients(cache):
        keep(cache)
        if len(pd.kept) == clients:
            for one in asked:
                one.cancel()

    prefill._keep = keep_and_lose_the_clients
    asked = [asyncio.create_task(pd.ask()) for _ in range(clients)]
    await asyncio.wait(asked)
    assert len(pd.kept) == clients
    prefill._keep = keep


def test_a_slow_answer_leaves_a_slow_refusal_its_whole_time(monkeypatch):
    """The worst moment: the last at which the answer is read, and a refusal within its limit."""
    monkeypatch.setattr(attempt, "KEPT_DRAIN_S", KEPT_S)
    monkeypatch.setattr(aborts, "ABORT_TIMEOUT_S", ABORT_S)

    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            pd.servers["prefill-0"].way_s = KEPT_S - 1.2
            pd.servers["decode-0"].refuses_s = ABORT_S - 1.2
            await leave_as_all_are_kept(pd)
            left_s = time.monotonic()
            await until(lambda: not pd.kept and not held(pd).requests)
            assert time.monotonic() - left_s < pd.servers["prefill-0"].lease_s / 4
            await tidy(pd)

    run(check)


@pytest.mark.parametrize("clients", [1, 24])
def test_a_decode_server_that_hangs_keeps_no_cache_from_being_given_up(clients, monkeypatch):
    """Though it is asked first, and though many leave, of whom few are told of at once."""
    monkeypatch.setattr(attempt, "KEPT_DRAIN_S", KEPT_S)

    async def check():
        async with vllm_cluster(prefill=1, decode=3, health_period_s=60.0) as pd:
            pd.servers["decode-0"].refuses_s = pd.servers["decode-1"].refuses_s = 60.0
            pd.servers["prefill-0"].way_s = 0.3
            await leave_as_all_are_kept(pd, clients)
            left_s = time.monotonic()
            await until(lambda: not pd.kept and not held(pd).requests)
            assert time.monotonic() - left_s < pd.servers["prefill-0"].lease_s / 4
            for name in ("decode-0", "decode-1"):
                pd.servers[name].refuses_s = 0.0
            await tidy(pd)

    run(check)


def test_a_prompt_that_waits_for_its_turn_is_not_computed_for_a_client_that_left():
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            prefill = pd.servers["prefill-0"]
            prefill.faults.append("hang")
            asked = asyncio.create_task(pd.ask())
            await until(lambda: prefill.seen)
            asked.cancel()
            await until(lambda: prefill.cancelled)
            await tidy(pd)

    run(check)


@STREAMS
@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_a_failed_decode_leg_is_prefilled_again_and_its_cache_counts_until_the_lease_ends(
    stream, fault
):
    async def check():
        async with vllm_cluster(prefill=1, decode=2, kv_lease_s=LONG_LEASE_S) as pd:
            prefill = pd.servers["prefill-0"]
            prefill.leases.append(LEASE_S)
            pd.servers["decode-0"].faults.append(fault)
            assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            assert len(prefill.seen) == 2
            assert held(pd).requests == 1
            assert held(pd, at_s=time.monotonic() + LONG_LEASE_S) == NO_RESERVATION
            await tidy(pd)

    run(check)


@STREAMS
def test_a_cache_whose_lease_has_ended_is_computed_again(stream):
    async def check():
        async with vllm_cluster(prefill=1, decode=2, kv_lease_s=LEASE_S) as pd:
            pd.servers["prefill-0"].leases.append(0.0)
            assert texts(await pd.ask(stream=stream), stream=stream) == words_of("a")
            assert len(pd.servers["prefill-0"].seen) == 2
            await tidy(pd)

    run(check)


def test_what_is_released_counts_no_longer():
    """No decode server is there: within a second, and not when the lease of 30 s ends."""

    async def check():
        async with vllm_cluster(prefill=1, decode=1, attempts=1) as pd:
            prefill = pd.servers["prefill-0"]
            prefill.gate.close()
            asked = asyncio.create_task(pd.ask())
            await until(lambda: prefill.gate.waiting)
            pd.service.pool.named("decode-0").draining = True
            prefill.gate.open()
            assert (await asked)[0] == 503
            ended_s = time.monotonic()
            await until(lambda: not held(pd).requests and not pd.kept)
            assert time.monotonic() - ended_s < 1.0 + STALL_S
            await tidy(pd)

    run(check)


def test_a_decode_server_that_does_not_listen_leaves_nothing_behind():
    async def check():
        async with vllm_cluster(prefill=1, decode=2, health_period_s=60.0) as pd:
            await pd.servers["decode-0"].stop()
            for _ in range(4):
                assert texts(await pd.ask(), stream=False) == words_of("a")
            await until(lambda: not held(pd).requests and not pd.kept)
            await tidy(pd)

    run(check)


def test_prompts_go_to_the_prefill_server_that_holds_less():
    """Through the router's own figures: the candidates of the prefill leg show what is held."""

    async def check():
        async with vllm_cluster(prefill=2, decode=1) as pd:
            pd.servers["decode-0"].gate.close()
            asked = asyncio.create_task(pd.ask(stream=True))
            await until(lambda: held(pd, "prefill-0").requests or held(pd, "prefill-1").requests)
            shown = {c.instance: c.held for c in pd.service._chooser.prefill_candidates()}
            assert sorted(one.requests for one in shown.values()) == [0, 1]
            pd.servers["decode-0"].gate.open()
            assert texts(await asked, stream=True) == words_of("a")
            await tidy(pd)

    run(check)


@pytest.mark.parametrize("lacking", FETCHED_BY)
def test_the_fake_refuses_parameters_of_which_one_is_missing(lacking):
    async def check():
        async with vllm_cluster(prefill=1, decode=1) as pd:
            whole = dict.fromkeys(FETCHED_BY, 1) | {
                "do_remote_prefill": True, "do_remote_decode": False,
            }  # fmt: skip
            del whole[lacking]
            async with pd.client.post(
                pd.servers["decode-0"].url + "/v1/completions",
                json={"prompt": "a", "kv_transfer_params": whole},
                headers={"X-Request-Id": "x"},
            ) as reply:
                assert reply.status == 400
            assert lacking in pd.complaints[0]

    run(check)


@pytest.mark.parametrize("lease_s", [0, -1.0, "long"])
def test_a_lease_that_is_none_is_refused(lease_s):
    with pytest.raises((ConfigError, ValueError), match="kv_lease_s"):
        VllmRouterTable(kv_lease_s=lease_s)


@STREAMS
@pytest.mark.parametrize("ends", ["its checks time out", "it says that it is not well"])
def test_a_cache_that_a_decode_server_may_be_fetching_as_it_is_ejected_is_not_given_up(
    stream, ends
):
    """It hangs and is no more asked, and yet goes on one day: nothing is written over meanwhile."""

    async def check():
        out = {"eject_after": 1, "health_timeout_s": STALL_S}
        async with vllm_cluster(prefill=1, decode=2, kv_lease_s=LONG_LEASE_S, **out) as pd:
            hangs = pd.servers["decode-0"]
            hangs.faults.append("hang")
            asked = asyncio.create_task(pd.ask(stream=stream))
            await until(lambda: hangs.seen)
            if ends == "its checks time out":
                hangs.hanging_health = True
            else:
                hangs.unwell = True
            assert texts(await asked, stream=stream) == words_of("a")
            await pd.quiet()
            hangs.hanging_health = hangs.unwell = False
            await until(lambda: pd.service.pool.named("decode-0").healthy)
            assert len(pd.kept) == held(pd).requests == 1
            assert held(pd, at_s=time.monotonic() + LONG_LEASE_S) == NO_RESERVATION
            assert pd.complaints == []

    run(check)


def test_a_decode_server_killed_between_the_legs_leaves_no_cache_behind():
    """Whole crowds are prefilled at that moment; it may come back at once.

    What it was about to be sent it may have been fetching (above): that ends with the lease.
    """

    async def check():
        async with vllm_cluster(prefill=1, decode=2, kv_lease_s=4.0, **PATIENT) as pd:
            prefill, dies = pd.servers["prefill-0"], pd.servers["decode-0"]
            prefill.lease_s = 4.0
            prefill.way.close()
            asked = [asyncio.create_task(pd.ask(stream=number % 2 == 0)) for number in range(12)]
            await until(lambda: prefill.way.waiting == len(pd.kept) == 12)
            await dies.stop()
            prefill.way.open()
            for number, one in enumerate(asked):
                stream = number % 2 == 0
                assert texts(await one, stream=stream) == words_of("a")
            await until(lambda: not pd.kept and not held(pd).requests)
            await dies.start()
            await tidy(pd)

    run(check)
