"""Servers of an engine that is served one leg after the other, as vLLM is over NIXL.

A prefill server computes one token, keeps the KV cache, and answers with what a decode server needs
to fetch it. A cache is fetched once; one that nobody fetches stays until its server is told that
nobody waits any more. Answers are a function of the prompt alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.serving.work_gate import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WORDS = 6


class Caches:
    """The KV caches that prefill servers keep, by server and request."""

    def __init__(self) -> None:
        self.kept: set[tuple[str, str]] = set()
        self.complaints: list[str] = []


class LateServer:
    """One server on a free port of the loopback interface.

    Attributes:
        faults: What goes wrong with coming requests, one each: ``500``, ``503``, ``400``, ``hang``,
            ``reset`` (before the first byte), ``reset-mid`` (in a stream).
        work_s: Time of a prefill, or between two tokens.
        gate: Holds its work at the end, where a test closes it.
        seen: Bodies that it got.
        aborted: Ids that it was told to abort.
        cancelled: Requests whose connection was closed before their end.
    """

    def __init__(self, name: str, role: str, caches: Caches) -> None:
        self.name, self.role, self.caches = name, role, caches
        self.faults: deque[str] = deque()
        self.work_s = 0.0
        self.gate = Gate()
        self.hanging_health = self.unwell = False
        self.seen: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.cancelled = 0
        self._stops: dict[str, asyncio.Event] = {}
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    def routes(self) -> list[web.RouteDef]:
        """What it serves."""
        return [
            web.post("/v1/completions", self._serve),
            web.post("/abort", self._abort),
            web.get("/health", self._health),
            web.get("/load", self._load),
        ]

    async def stop(self) -> None:
        """Die: open connections are reset and nobody listens any more; its caches are lost."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            self.caches.kept -= {cache for cache in self.caches.kept if cache[0] == self.name}

    async def _health(self, _request: web.Request) -> web.Response:
        if self.hanging_health:
            await asyncio.sleep(60)
        return web.Response(status=503 if self.unwell else 200)

    async def _load(self, _request: web.Request) -> web.Response:
        return web.json_response({"running": len(self.seen)})

    async def _abort(self, request: web.Request) -> web.Response:
        rid = (await request.json())["request_id"]
        self.aborted.append(rid)
        self._stops.setdefault(rid, asyncio.Event()).set()  # also for one that is still to come
        self.caches.kept.discard((self.name, rid))
        return web.Response()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        fault = self.faults.popleft() if self.faults else None
        try:
            if fault == "hang":
                await asyncio.sleep(60)
            if fault in {"400", "500", "503"}:
                return web.json_response({"error": {"message": "told to"}}, status=int(fault))
            if fault == "reset":
                return self._reset(request)
            answer = {"prefill": self._prefilled, "decode": self._decoded, "unified": self._words}
            return await answer[self.role](request, body, fault)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _works(self, body: Any, work_s: float) -> bool:
        """Whether it has worked on a request for so long without being told to stop."""
        stop = self._stops.setdefault(body["request_id"], asyncio.Event())
        done = await self.gate.work(work_s, stop)
        self.cancelled += not done
        return done

    def _reset(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _prefilled(self, _request: Any, body: Any, _fault: Any) -> web.StreamResponse:
        if body["max_tokens"] != 1 or body["stream"] or body["kv"] != {"keep": True}:
            return self._complain(f"a prefill of {body}")
        if not await self._works(body, self.work_s):
            return web.json_response({"error": {"message": "aborted"}}, status=400)
        self.caches.kept.add((self.name, body["request_id"]))
        return web.json_response({"kv": {"server": self.name, "cache": body["request_id"]}})

    async def _decoded(self, request: Any, body: Any, fault: Any) -> web.StreamResponse:
        cache = body["kv"]["server"], body["kv"]["cache"]
        if cache not in self.caches.kept:
            return self._complain(f"{cache} is not kept")
        self.caches.kept.remove(cache)
        return await self._words(request, body, fault)

    async def _words(self, request: web.Request, body: Any, fault: Any) -> web.StreamResponse:
        words = words_of(body["prompt"])
        if not body.get("stream"):
            if not await self._works(body, self.work_s * WORDS):
                return web.json_response({"error": {"message": "aborted"}}, status=400)
            return web.json_response({"text": " ".join(words)})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for number, word in enumerate(words):
            if not await self._works(body, self.work_s):
                break
            if number == 2 and fault == "reset-mid":
                self._reset(request)
                return reply
            await reply.write(b"data: " + json.dumps({"text": word}).encode() + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    def _complain(self, what: str) -> web.Response:
        self.caches.complaints.append(f"{self.name}: {what}")
        return web.json_response({"error": {"message": what}}, status=400)


def words_of(prompt: str) -> list[str]:
    return [str(sum(map(ord, prompt)) * (i + 3) % 997) for i in range(WORDS)]


@contextlib.asynccontextmanager
async def late_servers(
    kind: type[LateServer] = LateServer, **counts: int
) -> AsyncIterator[dict[str, LateServer]]:
    """Servers by role: ``late_servers(prefill=1, decode=2)`` gives a dict by name."""
    caches = Caches()
    servers = {
        f"{role}-{i}": kind(f"{role}-{i}", role, caches)
        for role, count in counts.items()
        for i in range(count)
    }
    for server in servers.values():
        await server.start()
    try:
        yield servers
    finally:
        for server in servers.values():
            await server.stop()
