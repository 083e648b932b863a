"""The official router as far as steering sees it: its worker list, its header, its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_sglang import FakeServer


class FakeSmg:
    """Forwards to one prefill server and the decode server of the header.

    Attributes:
        order: Decode servers as it registered them.
        unhealthy: Names that it holds unhealthy.
        targets: Header of each request that came.
        circuit_open: Names that it does not use for now, which the list does not tell.
    """

    def __init__(self, prefill: FakeServer, order: list[FakeServer]) -> None:
        self.prefill = prefill
        self.order = order
        self.unhealthy: set[str] = set()
        self.targets: list[str | None] = []
        self.circuit_open: set[str] = set()
        self.port = 0

    async def workers(self, _request: web.Request) -> web.Response:
        rows = [{"url": self.prefill.url, "worker_type": "prefill", "is_healthy": True}]
        rows += [
            {"url": s.url, "worker_type": "decode", "is_healthy": s.name not in self.unhealthy}
            for s in self.order
        ]
        return web.json_response({"workers": rows})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        target = request.headers.get("x-smg-target-worker")
        self.targets.append(target)
        server = self._chosen(target)
        if server is None:
            return web.json_response({"error": {"message": "No available servers"}}, status=503)
        body: dict[str, Any] = await request.json()
        body |= {
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": self.prefill.bootstrap_port,
            "bootstrap_room": secrets.randbelow(2**63),
        }
        async with aiohttp.ClientSession() as client:

            async def leg(url: str) -> tuple[int, bytes, str]:
                async with client.post(url + request.path, json=body) as reply:
                    return reply.status, await reply.read(), reply.content_type

            legs = leg(self.prefill.url), leg(server.url)
            try:
                _, (status, raw, kind) = await asyncio.gather(*legs)
            except aiohttp.ClientError:
                return web.json_response({"error": {"message": "Transport error"}}, status=502)
        headers = {"x-smg-routed-worker-id": server.url, "Content-Type": kind}
        return web.Response(status=status, body=raw, headers=headers)

    def _chosen(self, target: str | None) -> FakeServer | None:
        """An index counts the servers that can be used, as `PDRouter` filters them first."""
        out = self.unhealthy | self.circuit_open
        usable = [server for server in self.order if server.name not in out]
        index = 0 if target is None else int(target)
        return usable[index] if index < len(usable) else None


@contextlib.asynccontextmanager
async def fake_smg(prefill: FakeServer, order: list[FakeServer]) -> AsyncIterator[FakeSmg]:
    """A running one."""
    made = FakeSmg(prefill, order)
    app = web.Application()
    app.router.add_get("/workers", made.workers)
    app.router.add_post("/{path:.*}", made.serve)
    app.router.add_get("/{path:.*}", _echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


async def _echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path_qs})
