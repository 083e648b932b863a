"""An engine whose legs run one after the other: the second kind that the port has to fit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from tests.serving.late_servers import LateServer, late_servers
from tests.serving.router_client import QUICK, Asked, token, until
from voltana.serving.engine import Call
from voltana.serving.router.bodies import parse_object
from voltana.serving.router.openai_prompt import prompt_size
from voltana.serving.router.problem import refused
from voltana.serving.router.relay import relay
from voltana.serving.router.service import RouterService
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.timebase import MonotonicTime
from voltana.values import InstanceState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from voltana.serving.router.answer import Answer
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.wire import Line


@dataclass(slots=True, kw_only=True, eq=False)
class LateCall(Call):
    """A request with its parsed body."""

    fields: dict[str, Any]

    def body(self, number: int, **changes: Any) -> bytes:
        """What a server gets in one of the tries."""
        return orjson.dumps(self.fields | {"request_id": f"{self.rid}/{number}"} | changes)


class LateEngine:
    """First the prefill server, whose answer says where the KV cache is; then the decode server."""

    binds_late = True

    def understand(self, path: str, raw: bytes) -> LateCall:
        fields = parse_object(raw)
        return LateCall(
            path=path,
            raw=raw,
            stream=fields.get("stream") is True,
            batch=None,
            rid=str(fields.get("request_id", "r")),
            size=prompt_size(fields.get("prompt")),
            fields=fields,
        )

    async def attempt(self, call: LateCall, attempt: Attempt, answer: Answer) -> None:
        cache = {}
        if attempt.prefill is not None:
            cache = {"kv": await self._prefilled(call, attempt, attempt.prefill)}
            attempt.prefilled()
            await attempt.admitted()
        body = call.body(attempt.number, **cache)
        async with attempt.post(attempt.decode(), body) as leg:
            if call.stream:
                begin = await leg.first_event()
                attempt.first_token()
                await relay(attempt, leg, begin, answer)
            else:
                content = await leg.read()
                attempt.first_token()
                answer.whole(content, leg.kind, attempt.names)

    async def load(self, line: Line) -> InstanceState:
        reply = await line.ask("GET", "/load")
        if not reply.ok:
            raise refused(line.backend.name, reply.status, reply.body, reply.kind)
        return InstanceState(running_requests=reply.value()["running"], clock_mhz=1000.0)

    async def abort(self, line: Line, call: LateCall, number: int) -> int:
        return (await line.ask("POST", "/abort", call.body(number))).status

    async def _prefilled(self, call: LateCall, attempt: Attempt, prefill: Backend) -> Any:
        body = call.body(attempt.number, max_tokens=1, stream=False, kv={"keep": True})
        async with attempt.post(prefill, body, held=True) as leg:
            answer = orjson.loads(await leg.read())
        prefill.succeeded()
        return answer["kv"]


@dataclass
class LateCluster(Asked):
    """What a test works with."""

    servers: dict[str, LateServer]

    @property
    def kept(self) -> set[tuple[str, str]]:
        """KV caches that prefill servers still hold."""
        return next(iter(self.servers.values())).caches.kept

    @property
    def complaints(self) -> list[str]:
        return next(iter(self.servers.values())).caches.complaints

    async def ask(self, *, stream: bool = False, **more: Any) -> tuple[int, Any, Any]:
        return await self.post("/v1/completions", {"prompt": "a", "stream": stream, **more})


@contextlib.asynccontextmanager
async def late_cluster(
    *, prefill: int = 0, decode: int = 0, unified: int = 0, **settings: Any
) -> AsyncIterator[LateCluster]:
    """A cluster of fake servers behind a router that finds them healthy."""
    async with late_servers(prefill=prefill, decode=decode, unified=unified) as servers:
        backends = tuple(
            BackendTable(name=server.name, role=server.role, url=server.url)  # type: ignore[arg-type]
            for server in servers.values()
        )
        table = RouterTable(**{**QUICK, **settings, "backends": backends})
        async with (
            RouterService(table, MonotonicTime(), LateEngine(), token=token()) as service,
            aiohttp.ClientSession() as client,
        ):
            made = LateCluster(service, client, f"http://127.0.0.1:{service.port}", servers)
            await until(lambda: all(b.available for b in service.pool))
            yield made
