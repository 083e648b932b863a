"""Steering before the official router: its administration is not the clients', its limits hold."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from tests.attack.beside import stands_beside
from tests.attack.own_time import HEAVY_S
from tests.attack.test_admin_router import FORGERIES, GOOD, raw, request
from tests.serving.router_client import token, until
from tests.serving.work_gate import Gate
from voltana.timebase import MonotonicTime
from voltana_sglang.dialect.settings import SglangBackend
from voltana_sglang.steer.api_paths import is_api
from voltana_sglang.steer.service import SteerService
from voltana_sglang.steer.settings import SteerTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Official:
    """The official router: answers everything, where its gate is open; notes what reached it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.gate = Gate()
        self.pad = 0
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        if request.path == "/workers" and request.method == "GET":
            return web.json_response({"workers": []})
        await request.read()
        await self.gate.work(0.0)
        return web.json_response({"text": "a" * (self.pad or 1)}, headers=self.headers)

    def reached(self) -> list[str]:
        return [path for _, path, _ in self.seen if path != "/workers"]


class Steered:
    def __init__(self, official: Official, service: SteerService, client: Any) -> None:
        self.official, self.service, self._client = official, service, client
        self.url = f"http://127.0.0.1:{service.port}"

    async def ask(self, path: str = "/generate") -> tuple[int, Any]:
        async with self._client.post(self.url + path, json={"text": "a"}) as reply:
            await reply.read()
            return reply.status, reply.headers


@contextlib.asynccontextmanager
async def steered(**settings: Any) -> AsyncIterator[Steered]:
    official = Official()
    app = web.Application(client_max_size=1 << 30)  # the official one has no limit
    app.router.add_route("*", "/{path:.*}", official.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
    table = SteerTable(
        port=0, upstream=upstream, loads_period_s=0, drain_timeout_s=5.0,
        backends=(SglangBackend(name="decode-0", role="decode", url="http://127.0.0.1:9"),),
        **settings,
    )  # fmt: skip
    async with (
        SteerService(table, MonotonicTime(), token()) as service,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        yield Steered(official, service, client)
    await runner.cleanup()


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(limited())


def test_requests_beyond_the_limit_are_told_to_come_again_and_the_others_answered() -> None:
    async def check() -> None:
        async with steered(max_in_flight=8) as it:
            it.official.gate.close()
            asked = [asyncio.create_task(it.ask()) for _ in range(40)]
            await until(lambda: sum(task.done() for task in asked) == 32)
            it.official.gate.open()
            answers = await asyncio.gather(*asked)
            statuses = [status for status, _ in answers]
            assert (statuses.count(200), statuses.count(429)) == (8, 32)
            assert all(h["Retry-After"] == "1" for status, h in answers if status == 429)
            assert len(it.official.reached()) == 8
            assert it.service.proxy.open == 0
            assert (await it.ask())[0] == 200

    run(check)


def test_while_it_drains_a_connection_that_is_kept_alive_brings_nothing_new() -> None:
    async def check() -> None:
        async with steered() as it:
            it.official.gate.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", it.service.port)
            kept = request("POST", "/generate", GOOD, b'{"text": "a"}').replace(
                b"Connection: close", b"Connection: keep-alive"
            )
            writer.write(kept)
            await until(lambda: it.official.gate.waiting)
            draining = asyncio.create_task(it.service.drain())
            await until(lambda: it.service.proxy.draining)
            writer.write(kept)  # pipelined behind the open one
            it.official.gate.open()
            first = await reader.readuntil(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 200")  # what was open is answered
            rest = b""
            while piece := await reader.read(4096):
                rest += piece
                if b"503" in rest:
                    break
            assert b"shutting_down" in rest
            await draining
            assert len(it.official.reached()) == 1
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", it.service.port)
            writer.close()
            await writer.wait_closed()

    run(check)


ADMINISTRATION = (
    "/workers", "/workers/1", "/add_worker?url=http://evil", "/remove_worker?url=x",
    "/list_workers", "/flush_cache", "/get_loads", "/metrics", "/router/status", "/steer/status",
    "/v1/tokenizers", "/v1/loads", "/ha/status", "/wasm", "//flush_cache", "/v1/../flush_cache",
    "/v1/models/../../workers", "/v1/models/..%2f..%2fflush_cache", "/%66lush_cache",
    "/v1/models/%2e%2e/workers", "/generate/..;/workers", "/v1/models/%252e%252e/workers",
    "/GENERATE", "/", "/generate/",
)  # fmt: skip


def test_the_official_router_s_administration_is_reached_by_the_administrator_alone() -> None:
    async def check() -> None:
        async with steered() as it:
            for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS"):
                for path in ADMINISTRATION:
                    answer = await raw(it.service.port, request(method, path, GOOD, b"{}"))
                    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (method, path)
            assert it.official.reached() == []
            port = it.service.administration.port
            for name, (method, headers, _) in FORGERIES.items():
                if method == "POST":
                    await raw(port, request(method, "/flush_cache", headers, b"{}"))
                    assert it.official.reached() == [], name
            answer = await raw(port, request("POST", "/flush_cache", GOOD, b"{}"))
            assert answer.startswith(b"HTTP/1.1 200")
            assert it.official.reached() == ["/flush_cache"]
            secret = token().header()["Authorization"].split()[1]
            assert secret not in json.dumps(it.official.seen)

    run(check)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/generate", True), ("PUT", "/generate", True), ("POST", "/v1/embeddings", True),
        ("GET", "/v1/models", True), ("GET", "/v1/models/llama", True), ("GET", "/readiness", True),
        ("GET", "/v1/responses/abc", True), ("POST", "/mine", True), ("GET", "/mine/x", False),
        ("GET", "/generate", False), ("POST", "/health", False), ("POST", "/workers", False),
    ],
)  # fmt: skip
def test_what_clients_may_ask_is_a_list(method: str, path: str, allowed: bool) -> None:
    assert is_api(method, path, ("/mine",)) is allowed


def test_headers_that_end_at_this_hop_do_not_pass() -> None:
    async def check() -> None:
        async with steered() as it:
            it.official.headers = {
                "Connection": "X-Internal, keep-alive", "X-Internal": "secret", "X-Fine": "1",
                "Proxy-Authenticate": "Basic", "Trailer": "X-Late",
            }  # fmt: skip
            status, headers = await it.ask()
            assert status == 200
            assert headers["X-Fine"] == "1"
            assert not {"X-Internal", "Proxy-Authenticate", "Trailer"} & set(headers)

    run(check)


HALF = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"


def test_bodies_that_never_come_take_no_honest_request_s_time() -> None:
    async def check() -> None:
        async with steered(max_in_flight=64) as it:  # fewer than there are halves

            async def half() -> None:
                with contextlib.ExitStack() as held:
                    for _ in range(200):
                        sock = held.enter_context(connected(it.service.port))
                        sock.send(
                            b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
                        )
                        await asyncio.sleep(0.002)
                    await asyncio.sleep(0.2)

            async def honest() -> bool:
                return (await it.ask())[0] == 200

            await stands_beside(honest, half, requests=100)

    run(check)


MEGABYTES = {"bomb", "prompts"}
"""Those that have to be moved or unpacked (SECURITY.md)."""

HEAVY = {
    "bomb": (gzip.compress(b'{"text": "' + b"a" * 100_000_000 + b'"}'), "gzip", 413),
    "prompts": (b'{"text": ["a"' + b', "a"' * 1_000_000 + b"]}", "identity", 200),
    "broken": (b"{}", "gzip", 400),
    "unknown": (b"{}", "br", 415),
}


def test_heavy_bodies_hold_up_nobody_and_are_bounded() -> None:
    """Those that the router cannot read are the official router's own affair."""

    async def check() -> None:
        async with steered(max_body_mb=8.0) as it, aiohttp.ClientSession() as other:
            url = f"{it.url}/generate"
            for name, (raw_body, packed, expected) in HEAVY.items():
                packing = {"Content-Encoding": packed}

                async def heavy(said: bytes, packing: dict[str, str], expected: int) -> None:
                    async with other.post(url, data=io.BytesIO(said), headers=packing) as reply:
                        assert reply.status == expected, await reply.text()
                    await asyncio.sleep(0.02)

                async def honest() -> bool:
                    return (await it.ask())[0] == 200

                attack = partial(heavy, raw_body, packing, expected)
                added_s = HEAVY_S if name in MEGABYTES else 0.0
                await stands_beside(honest, attack, requests=60, added_s=added_s)

    run(check)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def check() -> None:
        async with steered(limits={"unread_s": 0.5}) as it:
            it.official.pad = 30_000_000
            _, writer = await asyncio.open_connection("127.0.0.1", it.service.port, limit=1024)
            writer.write(request("POST", "/generate", GOOD, b'{"text": "a"}'))
            await until(it.official.reached)  # it may be cut off already
            await until(lambda: it.service.proxy.open == 0)
            writer.close()

    run(check)


def connected(port: int) -> Any:
    import socket

    return socket.create_connection(("127.0.0.1", port))
