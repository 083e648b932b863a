"""vLLM servers of a pair, without a model: what they accept, hand over, refuse and give up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from tests.serving.late_engine import LateCluster
from tests.serving.late_servers import LateServer, late_servers, words_of
from tests.serving.router_client import QUICK, token, until
from tests.serving.work_gate import Gate
from voltana.serving.router.service import RouterService
from voltana.serving.router.settings import BackendTable
from voltana.timebase import MonotonicTime
from voltana_vllm.dialect.engine import VllmEngine
from voltana_vllm.dialect.settings import VllmRouterTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = "tiny"

ASKED = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None,
    "remote_block_ids": None, "remote_host": None, "remote_port": None,
}  # fmt: skip
"""What vLLM's documentation has a proxy send to a prefill server."""


FETCHED_BY = (
    "remote_engine_id", "remote_request_id", "remote_block_ids", "remote_host", "remote_port",
    "tp_size",
)  # fmt: skip
"""Without one of these vLLM computes the prompt again, in silence."""

EXPIRED: set[tuple[str, str]] = set()
"""Caches that were given up: what any decode server fails to load."""


class FakeVllm(LateServer):
    """One server. It takes the strict view of what vLLM would merely misunderstand.

    A KV cache that nobody has fetched when its lease ends is given up, and a decode server that
    asks for it then fails the request, as vLLM does by default (``kv_load_failure_policy``).

    Attributes:
        transfers: Whether it was started with a KV connector.
        says: What it answers to a prefill instead of what it should; None for that.
        ids: Ids of the requests that it got.
        lease_s: ``kv_lease_duration``, or ``VLLM_NIXL_ABORT_REQUEST_TIMEOUT`` of older ones.
        leases: Those of the next caches, before that.
        way_s: Time from the end of a prefill to its answer.
        way: Holds answers at the end of that, where a test closes it.
        refuses_s: Time that it takes to refuse a request for a model that it has not.
    """

    transfers = True
    lease_s = 30.0
    way_s = 0.0
    refuses_s = 0.0
    says: bytes | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ids: list[str] = []
        self.way = Gate()
        self.metrics_text = METRICS
        self.leases: deque[float] = deque()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/completions", self._entered),
            web.post("/v1/chat/completions", self._entered),
            web.get("/health", self._health),
            web.get("/metrics", self._metrics),
            web.get("/v1/models", self._models),
        ]

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.metrics_text)

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def _entered(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        params = body.get("kv_transfer_params")
        if body.get("model", MODEL) != MODEL:
            await asyncio.sleep(self.refuses_s)
            if params and params.get("do_remote_prefill"):  # what it refuses, it gives up
                self.caches.kept.discard((params["remote_engine_id"], params["remote_request_id"]))
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        self.ids.append(request.headers["X-Request-Id"])
        return await self._serve(request)

    async def _prefilled(self, request: Any, body: Any, _fault: Any) -> web.StreamResponse:
        rid = f"cmpl-{request.headers['X-Request-Id']}-0-1a2b3c4d"
        alone = body["max_tokens"] == 1 and body["stream"] is False
        alone = alone and body.get("max_completion_tokens", 1) == 1 and "stream_options" not in body
        # A connector may hand over nothing of a request that was stopped.
        alone = alone and body["ignore_eos"] is True and not {"stop", "stop_token_ids"} & set(body)
        if not alone or body.get("min_tokens", 0) > 1 or body["kv_transfer_params"] != ASKED:
            return self._complain(f"a prefill of {body}")
        await self._worked()
        if self.says is not None:
            return web.Response(body=self.says, content_type="application/json")
        answer: dict[str, Any] = {"id": rid, "choices": [{"text": "x"}], "kv_transfer_params": None}
        if self.transfers:
            self._keep((self.name, rid))
            answer["kv_transfer_params"] = {
                "do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1]],
                "remote_engine_id": self.name, "remote_request_id": rid,
                "remote_host": "127.0.0.1", "remote_port": 5600, "tp_size": 1,
            }  # fmt: skip
        await self.way.work(self.way_s)  # whoever leaves meanwhile stops nothing any more
        return web.json_response(answer)

    def _keep(self, cache: tuple[str, str]) -> None:
        self.caches.kept.add(cache)
        lease_s = self.leases.popleft() if self.leases else self.lease_s

        def expire() -> None:
            if cache in self.caches.kept:
                self.caches.kept.discard(cache)
                EXPIRED.add(cache)

        if lease_s > 0:
            asyncio.get_running_loop().call_later(lease_s, expire)
        else:
            expire()

    async def _decoded(self, request: Any, body: Any, fault: Any) -> web.StreamResponse:
        params = body["kv_transfer_params"]
        lacking = [name for name in FETCHED_BY if params.get(name) is None]
        if lacking or params["do_remote_prefill"] is not True or params["do_remote_decode"]:
            return self._complain(f"{params} cannot be fetched: {lacking}")
        cache = params["remote_engine_id"], params["remote_request_id"]
        if cache in EXPIRED:
            return web.json_response({"error": {"message": "KV load failed"}}, status=500)
        if cache not in self.caches.kept:
            return self._complain(f"{cache} is not kept")
        self.caches.kept.remove(cache)
        return await self._words(request, body, fault)

    async def _words(self, request: web.Request, body: Any, fault: Any) -> web.StreamResponse:
        if body.get("kv_transfer_params") and self.role == "unified":
            return self._complain("a client named a place to fetch from")
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
        words, rid = words_of(text), f"cmpl-{request.headers['X-Request-Id']}"
        if not body.get("stream"):
            await self._worked(len(words))
            return web.json_response({"id": rid, "choices": [{"text": " ".join(words)}]})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        if fault == "error-event":
            await reply.write(b'data: {"error": {"message": "told to", "code": 500}}\n\n')
            return reply
        for number, word in enumerate(words):
            await self._worked()
            if number == 2 and fault == "reset-mid":
                self._reset(request)
                return reply
            event = f'data: {{"id": "{rid}", "choices": [{{"text": "{word}"}}]}}\n\n'
            await reply.write(event.encode()[:20])  # cut where it hurts
            await reply.write(event.encode()[20:])
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def _worked(self, steps: int = 1) -> None:
        await self.gate.work(self.work_s * steps)


METRICS = """# HELP vllm:num_requests_running Running.
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1.0
"""


@contextlib.asynccontextmanager
async def vllm_cluster(
    *, prefill: int = 0, decode: int = 0, unified: int = 0, **settings: Any
) -> AsyncIterator[LateCluster]:
    """Fake servers behind a router that finds them healthy."""
    counts = {"prefill": prefill, "decode": decode, "unified": unified}
    async with late_servers(FakeVllm, **counts) as servers:
        backends = tuple(
            BackendTable(name=server.name, role=server.role, url=server.url)
            for server in servers.values()
        )
        table = VllmRouterTable(**{**QUICK, **settings, "backends": backends})
        async with (
            RouterService(table, MonotonicTime(), VllmEngine(table), token=token()) as service,
            aiohttp.ClientSession() as client,
        ):
            made = LateCluster(service, client, f"http://127.0.0.1:{service.port}", servers)
            await until(lambda: all(b.available for b in service.pool))
            yield made
