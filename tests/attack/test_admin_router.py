"""The router's administration: whoever lacks the token changes nothing, by whatever way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.attack.beside import stands_beside
from tests.serving.late_engine import late_cluster
from tests.serving.router_client import token, until
from tests.serving.work_gate import PATIENT
from voltana.serving.admin import guard
from voltana.serving.admin.door import MOST_OPEN
from voltana.serving.router.service import RouterService
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.timebase import MonotonicTime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.serving.late_engine import LateCluster

DRAIN = json.dumps({"backend": "decode-0", "draining": True}).encode()
JSON = {"Content-Type": "application/json"}
SECRET = token().header()["Authorization"]


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await body()

    asyncio.run(limited())


async def raw(port: int, text: bytes, wait_s: float = 5.0) -> bytes:
    """What comes back for bytes that no client would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        await writer.drain()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(wait_s):
                return await reader.read(65536)
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


HOST = {"Host": "127.0.0.1:1"}
GOOD = HOST | JSON | {"Authorization": SECRET}
FORGERIES: dict[str, tuple[str, dict[str, str], int]] = {
    "no token": ("POST", HOST | JSON, 401),
    "an empty token": ("POST", HOST | JSON | {"Authorization": "Bearer "}, 401),
    "half a token": ("POST", GOOD | {"Authorization": SECRET[:-1]}, 401),
    "a longer token": ("POST", GOOD | {"Authorization": SECRET + "a"}, 401),
    "a token of another kind": (
        "POST", GOOD | {"Authorization": SECRET.replace("Bearer", "Basic")}, 401
    ),
    "a token in odd letters": ("POST", GOOD | {"Authorization": "Bearer \xe9\xff"}, 401),
    "a form of a web page": ("POST", GOOD | {"Content-Type": "text/plain"}, 415),
    "another form of a web page": (
        "POST", GOOD | {"Content-Type": "application/x-www-form-urlencoded"}, 415
    ),
    "the script of a web page": ("POST", GOOD | {"Origin": "http://evil.example"}, 403),
    "the script of a page without an origin": ("POST", GOOD | {"Origin": "null"}, 403),
    "a page of this very address": ("POST", GOOD | {"Origin": "http://127.0.0.1:1"}, 403),
    "a name that resolves to this host": ("POST", GOOD | {"Host": "evil.example:1"}, 403),
    "an address as the head of a name": ("POST", GOOD | {"Host": "127.0.0.1.evil.example"}, 403),
    "an address in front of a name": ("POST", GOOD | {"Host": "127.0.0.1@evil.example"}, 403),
    "a name behind a port": ("POST", GOOD | {"Host": "localhost:80@evil.example"}, 403),
    "a name behind an address": ("POST", GOOD | {"Host": "[::1]evil.example"}, 403),
    "a name in an address": ("POST", GOOD | {"Host": "[::1%25evil.example]"}, 403),
    "another address": ("POST", GOOD | {"Host": "10.1.2.3"}, 403),
    "an empty name": ("POST", GOOD | {"Host": ""}, 403),
    "by GET": ("GET", GOOD, 405),
    "by HEAD": ("HEAD", GOOD, 405),
    "by PUT": ("PUT", GOOD, 405),
    "by OPTIONS": ("OPTIONS", GOOD, 405),
}  # fmt: skip


def test_a_forged_order_to_drain_is_refused_whatever_its_form() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            port = pd.service.administration.port
            for name, (method, headers, status) in FORGERIES.items():
                answer = await raw(port, request(method, "/router/drain", headers, DRAIN))
                assert answer.startswith(f"HTTP/1.1 {status}".encode()), (name, answer[:200])
                assert SECRET.split()[1].encode() not in answer, name
                assert not pd.service.pool.named("decode-0").draining, name
            two = request("POST", "/router/drain", GOOD, DRAIN).replace(
                b"Host:", b"Host: localhost\r\nHost:", 1
            )
            answer = await raw(port, two)
            assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.0 400", b"HTTP/1.1 400"))
            assert not pd.service.pool.named("decode-0").draining
            answer = await raw(port, request("POST", "/router/drain", GOOD, DRAIN))
            assert answer.startswith(b"HTTP/1.1 200")
            assert pd.service.pool.named("decode-0").draining

    run(check)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
def test_the_public_port_serves_none_of_it_even_with_the_token(method: str) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            paths = ("/metrics", "/router/status", "/router/drain", "/router/drain/", "/router")
            for path in (*paths, "//router/drain", "/router/%64rain", "/v1/../router/drain"):
                answer = await raw(pd.service.port, request(method, path, GOOD, DRAIN))
                assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405")), (path, answer[:99])
                assert not pd.service.pool.named("decode-0").draining
            status, said = await pd.get("/metrics")
            assert (status, said["error"]["code"]) == (404, "moved")
            assert "admin_port" in said["error"]["message"]
            assert (await pd.ask())[0] == 200

    run(check)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b"[]", 400),
        (b'{"backend": "decode-0", "draining": 1}', 400),
        (b'{"backend": ["decode-0"]}', 400),
        (b'{"backend": "decode-0", "drainign": false}', 400),
        (b'{"backend": "nobody"}', 404),
        (b'{"backend": "' + b"x" * 100_000 + b'"}', 413),
        (b"\xff\xfe\x00", 400),
        (b'{"backend": "\\ud800"}', 400),
        (b'{"backend": ' + b"9" * 60_000 + b"}", 400),
    ],
)
def test_an_odd_body_is_refused_and_changes_nothing(body: bytes, status: int) -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            port = pd.service.administration.port
            answer = await raw(port, request("POST", "/router/drain", GOOD, body))
            assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer[:300]
            assert not pd.service.pool.named("decode-0").draining
            assert (await pd.ask_admin("GET", "/router/status"))[0] == 200

    run(check)


def bomb(megabytes: int) -> bytes:
    """A thousandth as many bytes, of gzip, that make so many megabytes of nothing."""
    packing = zlib.compressobj(9, wbits=31)
    head = packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH)
    block = packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH)
    return head + block * (megabytes - 1) + packing.flush()


BOMB = bomb(2000)
PACKED = {"Content-Encoding": "gzip"}


async def cpu_of_bombs(port: int, method: str, path: str) -> float:
    """CPU time in s of this process for packed bodies, with and without the token."""
    began_s = time.process_time()
    for headers, statuses in ((HOST | JSON, (401,)), (GOOD, (413, 415))):
        answer = await raw(port, request(method, path, headers | PACKED, BOMB), 20.0)
        assert answer.startswith(tuple(f"HTTP/1.1 {s}".encode() for s in statuses)), answer[:200]
    return time.process_time() - began_s


def test_a_packed_body_is_not_unpacked_before_or_after_it_is_refused() -> None:
    """Two megabytes of gzip took the router's whole attention for seconds, and ejected servers."""

    async def check() -> None:
        assert len(zlib.decompressobj(31).decompress(bomb(3)[:-8])) == 3 << 20
        async with late_cluster(prefill=1, decode=1) as pd:
            port = pd.service.administration.port
            assert await cpu_of_bombs(port, "POST", "/router/drain") < 0.5
            assert all(backend.healthy for backend in pd.service.pool)
            assert (await pd.ask())[0] == 200

    run(check)


def test_figures_are_read_without_a_token_and_nothing_else_is() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            port = pd.service.administration.port
            for path in ("/metrics", "/health"):
                assert (await raw(port, request("GET", path, HOST))).startswith(b"HTTP/1.1 200")
                refused = await raw(port, request("GET", path, {"Host": "evil.example"}))
                assert refused.startswith(b"HTTP/1.1 403")
            for path in ("/router/status", "/router/drain", "/nothing"):
                assert (await raw(port, request("GET", path, HOST))).startswith(b"HTTP/1.1 401")

    run(check)


def test_a_body_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "READ_S", 0.2)

    async def check() -> None:
        async with late_cluster(prefill=1, decode=1) as pd:
            port = pd.service.administration.port
            text = request("POST", "/router/drain", GOOD, DRAIN)[: -len(DRAIN)]
            assert (await raw(port, text)).startswith(b"HTTP/1.1 408")

    run(check)


def test_connections_that_stay_cost_neither_scrapes_nor_requests() -> None:
    """Idle ones, and ones that send half a header, 20 times as many as there are places."""

    async def check() -> None:
        async with late_cluster(prefill=1, decode=2) as pd:
            port = pd.service.administration.port

            async def hold() -> None:
                with contextlib.ExitStack() as held:
                    for number in range(20 * MOST_OPEN):
                        sock = held.enter_context(socket.create_connection(("127.0.0.1", port)))
                        if number % 2:
                            sock.send(b"POST /router/drain HTTP/1.1\r\nHost: ")
                        await asyncio.sleep(0.001)
                    await asyncio.sleep(0.1)
                    assert len(open_connections(pd)) <= MOST_OPEN

            async def honest() -> bool:
                scraped = await raw(port, request("GET", "/metrics", HOST))
                return scraped.startswith(b"HTTP/1.1 200") and (await pd.ask())[0] == 200

            await stands_beside(honest, hold, requests=80)

    run(check)


def open_connections(pd: LateCluster) -> list[Any]:
    server = pd.service.administration._runner.server  # type: ignore[union-attr]
    assert server is not None
    return list(server.connections)


def test_a_flood_of_forgeries_delays_no_client() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2) as pd:

            async def forge() -> None:
                for method, headers, _ in FORGERIES.values():
                    forged = request(method, "/router/drain", headers, DRAIN)
                    await raw(pd.service.administration.port, forged)
                    await asyncio.sleep(0.005)

            await stands_beside(lambda: answered(pd), forge)
            assert not any(backend.draining for backend in pd.service.pool)

    run(check)


async def answered(pd: LateCluster) -> bool:
    return (await pd.ask())[0] == 200


def test_no_token_is_ever_written_down() -> None:
    async def check() -> None:
        settings = RouterTable(
            port=0, backends=(BackendTable(name="u", role="unified", url="http://127.0.0.1:9"),)
        )
        service = RouterService(settings, MonotonicTime(), AnyEngine(), token=token())
        with structlog.testing.capture_logs() as logs:
            async with service:
                port = service.administration.port
                for headers in (GOOD, GOOD | {"Authorization": SECRET + "x"}, HOST | JSON):
                    await raw(port, request("POST", "/router/drain", headers, DRAIN))
                    await raw(port, request("GET", "/router/status", headers))
        shown = f"{logs} {settings!r} {service!r} {token()!r} {vars(service.administration)}"
        assert SECRET.split()[1] not in shown
        assert any("administration listens" in entry["event"] for entry in logs)

    run(check)


class AnyEngine:
    """Serves nothing: the administration alone is asked."""

    async def load(self, line: Any) -> Any:
        raise TimeoutError


def test_draining_by_the_administration_lets_every_open_request_end() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=2, **PATIENT) as pd:
            decodes = pd.servers["decode-0"], pd.servers["decode-1"]
            for server in decodes:
                server.gate.close()
            opened = [
                asyncio.create_task(pd.ask(stream=True, request_id=f"r{n}")) for n in range(20)
            ]
            await until(lambda: sum(server.gate.waiting for server in decodes) == 20)
            status, _ = await pd.ask_admin("POST", "/router/drain", {"backend": "decode-0"})
            assert status == 200
            for server in decodes:
                server.gate.open()
            answers = [await task for task in opened]
            assert [answer[0] for answer in answers] == [200] * 20, answers[1]

    run(check)
