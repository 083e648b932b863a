"""Steering the official router: the right number, or none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from fake_sglang import FakeServer, fake_servers, words_of
from fake_smg import FakeSmg, fake_smg
from router_cluster import until

from tests.serving.router_client import token
from voltana.timebase import ManualTime, MonotonicTime
from voltana_sglang.dialect.settings import SglangBackend
from voltana_sglang.steer.service import SteerService
from voltana_sglang.steer.settings import SteerTable
from voltana_sglang.steer.targets import REFUTED_S, WorkerList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def run(body: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


@dataclass
class Steered:
    servers: dict[str, FakeServer]
    smg: FakeSmg
    service: SteerService
    client: aiohttp.ClientSession

    async def ask(self, *, stream: bool = False, headers: Any = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.service.port}/generate"
        body = {"text": "a", "stream": stream}
        async with self.client.post(url, json=body, headers=headers) as reply:
            raw = await reply.read()
            if not stream or reply.status != 200:
                return reply.status, json.loads(raw).get("text", "")
            *_, last, done, _ = raw.split(b"\n\n")
            assert done == b"data: [DONE]"
            return reply.status, json.loads(last[6:])["text"]

    def seen(self) -> list[int]:
        return [len(s.seen) for name, s in self.servers.items() if name.startswith("decode")]


@contextlib.asynccontextmanager
async def steered(**settings: Any) -> AsyncIterator[Steered]:
    """Two decode servers, which the official router knows in the other order."""
    async with fake_servers(prefill=1, decode=2) as servers:
        prefill, *decode = servers.values()
        async with fake_smg(prefill, decode[::-1]) as smg:
            table = SteerTable(
                **{
                    "port": 0,
                    "upstream": f"http://127.0.0.1:{smg.port}",
                    "decode_router": "round-robin",
                    "backends": [
                        SglangBackend(name=s.name, role="decode", url=s.url) for s in decode
                    ],
                    "health_period_s": 0.1,
                    "workers_period_s": 0.3,
                    "eject_s": 0.1,
                    "loads_period_s": 0,
                }
                | settings
            )
            async with (
                SteerService(table, MonotonicTime(), token()) as service,
                aiohttp.ClientSession() as client,
            ):
                made = Steered(servers, smg, service, client)
                await until(
                    lambda: (
                        None not in [service.workers.index_of(s.url) for s in decode]
                        and all(b.available for b in service.pool)
                    )
                )
                yield made


@pytest.mark.parametrize("stream", [False, True])
def test_requests_go_where_the_router_says_whatever_the_official_order(stream: bool) -> None:
    async def check() -> None:
        async with steered() as it:
            for _ in range(4):
                status, text = await it.ask(stream=stream)
                assert (status, text) == (200, " ".join(words_of("a")))
            assert it.seen() == [2, 2]
            assert it.smg.targets == ["1", "0", "1", "0"]
            assert len(it.service.proxy._ledger) == 0

    run(check)


@pytest.mark.parametrize("dead", ["decode-0", "decode-1"])
def test_a_dead_server_is_never_named_and_the_others_move_up(dead: str) -> None:
    async def check() -> None:
        async with steered() as it:
            await it.servers[dead].stop()
            it.smg.unhealthy.add(dead)
            await until(lambda: not it.service.pool.named(dead).healthy)
            await until(lambda: it.service.workers.index_of(it.servers[dead].url) is None)
            it.smg.targets.clear()
            for _ in range(4):
                assert (await it.ask())[0] == 200
            assert it.smg.targets == ["0"] * 4
            assert it.service.proxy.repeated == 0

    run(check)


def test_one_that_dies_unnoticed_costs_a_second_try_without_a_target() -> None:
    async def check() -> None:
        async with steered(health_period_s=60, workers_period_s=20) as it:
            await it.servers["decode-0"].stop()  # the last of the official order
            it.smg.unhealthy.add("decode-0")
            for _ in range(4):
                assert (await it.ask())[0] == 200
            assert it.smg.targets == ["1", None, "0", "1", None, "0"]
            assert it.service.proxy.repeated == 2

    run(check)


def test_one_that_the_official_router_holds_unhealthy_is_not_named() -> None:
    async def check() -> None:
        async with steered() as it:
            it.smg.unhealthy.add("decode-1")
            await until(lambda: it.service.workers.index_of(it.servers["decode-1"].url) is None)
            it.smg.targets.clear()
            for _ in range(4):
                assert (await it.ask())[0] == 200
            assert it.smg.targets in (["0", None] * 2, [None, "0"] * 2)
            assert it.seen() == [4, 0]

    run(check)


def test_numbers_that_prove_wrong_are_given_up_until_the_list_changes() -> None:
    async def check() -> None:
        async with steered() as it:
            it.smg.circuit_open.add("decode-1")  # the first of the official order
            for _ in range(4):
                assert (await it.ask())[0] == 200
            # Beyond the last; again without; the other one's number, which goes astray; no more.
            assert it.smg.targets == ["1", None, "0", None, None]
            await asyncio.sleep(0.7)  # the same list again proves nothing
            assert (await it.ask())[0] == 200
            assert it.smg.targets[-1] is None
            it.smg.unhealthy.add("decode-1")
            await until(lambda: it.service.workers.index_of(it.servers["decode-0"].url) == 0)

    run(check)


def test_a_list_that_grows_old_is_not_used() -> None:
    async def check() -> None:
        async with steered(workers_period_s=0.1) as it:

            async def fail(_self: Any = None) -> None:
                raise TimeoutError

            it.service.workers._read = fail  # type: ignore[method-assign]
            await until(lambda: it.service.workers.index_of(it.servers["decode-0"].url) is None)
            it.smg.targets.clear()
            assert (await it.ask())[0] == 200
            assert it.smg.targets == [None]

    run(check)


def test_a_client_s_own_target_stands_and_other_paths_pass_through() -> None:
    async def check() -> None:
        async with steered() as it:
            await it.ask(headers={"X-Smg-Target-Worker": "0"})
            assert it.smg.targets == ["0"]
            url = f"http://127.0.0.1:{it.service.port}"
            async with it.client.get(f"{url}/v1/models?x=1") as reply:
                assert (await reply.json()) == {"path": "/v1/models?x=1"}
            admin = f"http://127.0.0.1:{it.service.administration.port}/steer/status"
            async with it.client.get(admin, headers=token().header()) as reply:
                status = await reply.json()
            assert [b["target"] for b in status["backends"]] == [1, 0]

    run(check)


def test_without_the_official_router_the_error_says_so() -> None:
    async def check() -> None:
        async with steered() as it:
            it.service.proxy._upstream = "http://127.0.0.1:9"
            url = f"http://127.0.0.1:{it.service.port}/generate"
            async with it.client.post(url, json={"text": "a"}) as reply:
                assert reply.status == 502
                assert (await reply.json())["error"]["code"] == "upstream_unreachable"

    run(check)


def listed(*urls: str) -> bytes:
    rows = [{"url": url, "worker_type": "decode", "is_healthy": True} for url in urls]
    return json.dumps({"workers": rows}).encode()


def test_refuted_numbers_are_tried_again_after_a_while() -> None:
    time = ManualTime()
    workers = WorkerList("http://x", None, time=time, period_s=1.0)  # type: ignore[arg-type]
    workers.take(listed("http://a", "http://b"))
    workers.refute("http://b", 1, "http://a")
    assert workers.index_of("http://a") is None
    time.advance_to(REFUTED_S - 0.1)
    workers.take(listed("http://a", "http://b"))
    assert workers.index_of("http://a") is None
    time.advance_to(REFUTED_S)
    assert workers.index_of("http://b") == 1


def test_an_answer_to_an_earlier_list_refutes_nothing() -> None:
    workers = WorkerList("http://x", None, time=ManualTime(), period_s=1.0)  # type: ignore[arg-type]
    workers.take(listed("http://a", "http://b"))
    workers.take(listed("http://b"))
    workers.refute("http://b", 1, "http://a")
    assert workers.index_of("http://b") == 0


def test_workers_of_one_address_are_counted_but_not_named() -> None:
    workers = WorkerList("http://x", None, time=ManualTime(), period_s=1.0)  # type: ignore[arg-type]
    workers.take(listed("http://a", "http://a", "http://b"))
    assert workers.index_of("http://a") is None
    assert workers.index_of("http://b") == 2
