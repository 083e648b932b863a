"""A router in front of fake servers, and a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from fake_sglang import FakeServer, fake_servers

from voltana.serving.router.service import RouterService
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.timebase import MonotonicTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUICK: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "prefill_router": "least-loaded",
    "decode_router": "least-loaded",
    "health_period_s": 0.2,
    "health_timeout_s": 0.3,
    "eject_s": 0.1,
    "eject_max_s": 0.2,
    "timeout_s": 5.0,
    "drain_timeout_s": 2.0,
    "loads_period_s": 0,
}


@dataclass
class Cluster:
    """What a test works with."""

    servers: dict[str, FakeServer]
    service: RouterService
    client: aiohttp.ClientSession
    url: str

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any, Any]:
        """Status, parsed body (events of a stream as a list), headers."""
        async with self.client.post(self.url + path, json=body, **options) as reply:
            raw = await reply.read()
            if reply.headers.get("Content-Type", "").startswith("text/event-stream"):
                return reply.status, events_of(raw), reply.headers
            try:
                return reply.status, json.loads(raw), reply.headers
            except json.JSONDecodeError:
                return reply.status, raw.decode(), reply.headers

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(self.url + path) as reply:
            raw = await reply.read()
            with contextlib.suppress(json.JSONDecodeError):
                return reply.status, json.loads(raw)
            return reply.status, raw.decode()

    async def quiet(self) -> None:
        """Wait until nothing is in flight; fails if something stays."""
        await until(lambda: not (len(self.service.ledger) or self.service.forwarder.open))

    @property
    def complaints(self) -> list[str]:
        return next(iter(self.servers.values())).transfers.complaints


@contextlib.asynccontextmanager
async def cluster(
    *, prefill: int = 0, decode: int = 0, unified: int = 0, wait: bool = True, **settings: Any
) -> AsyncIterator[Cluster]:
    """A cluster of fake servers behind a router that finds them healthy."""
    async with fake_servers(prefill=prefill, decode=decode, unified=unified) as servers:
        feeds = settings.pop("feeds", {})
        backends = tuple(
            BackendTable(
                name=server.name,
                role=server.role,
                url=server.url,
                bootstrap_port=server.bootstrap_port,
                feed=feeds.get(server.name),
            )
            for server in servers.values()
        )
        table = RouterTable(**{**QUICK, **settings, "backends": backends})
        async with (
            RouterService(table, MonotonicTime()) as service,
            aiohttp.ClientSession() as client,
        ):
            made = Cluster(servers, service, client, f"http://127.0.0.1:{service.port}")
            if wait:
                await until(lambda: all(b.available for b in service.pool))
            yield made


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; a busy machine may take its time.

    Raises:
        TimeoutError: If it does not come to hold.
    """
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def events_of(raw: bytes) -> list[Any]:
    """The events of a stream; the last one must be [DONE]."""
    parts = [p for p in raw.split(b"\n\n") if p.strip()]
    assert all(p.startswith(b"data: ") for p in parts), raw[:300]
    return [p[6:].decode() if p[6:] == b"[DONE]" else json.loads(p[6:]) for p in parts]
