"""A router in front of fake servers, and a client."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from fake_sglang import FakeServer, fake_servers

from tests.serving.router_client import QUICK, Asked, until
from voltana.timebase import MonotonicTime
from voltana_sglang.dialect.commands import make_router
from voltana_sglang.dialect.settings import SglangBackend, SglangRouterTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Cluster(Asked):
    """What a test works with."""

    servers: dict[str, FakeServer]

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
            SglangBackend(
                name=server.name,
                role=server.role,
                url=server.url,
                bootstrap_port=server.bootstrap_port,
                feed=feeds.get(server.name),
            )
            for server in servers.values()
        )
        table = SglangRouterTable(**{**QUICK, **settings, "backends": backends})
        async with (
            make_router(table, MonotonicTime()) as service,
            aiohttp.ClientSession() as client,
        ):
            made = Cluster(service, client, f"http://127.0.0.1:{service.port}", servers)
            if wait:
                await until(lambda: all(b.available for b in service.pool))
            yield made
