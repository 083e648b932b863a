"""SGLang's own pages, which its clients and benchmarks expect of a router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from voltana.serving.router.bodies import json_object, json_response
from voltana.serving.router.fan_out import agreed
from voltana.serving.router.openai_prompt import CHAT_COMPLETIONS, COMPLETIONS
from voltana.serving.router.pages import Desk, Pages
from voltana.serving.router.problem import JSON_TYPE, Problem
from voltana_sglang.dialect.call import GENERATE
from voltana_sglang.dialect.loads import LOADS_PATH

if TYPE_CHECKING:
    from voltana.serving.router.wire import Reply

FLUSH = "/flush_cache"
ABORT = "/abort_request"
_INFO_PATHS = ("/model_info", "/get_model_info")
_SERVER_INFO_PATHS = ("/server_info", "/get_server_info")
_KEYS = frozenset({"api_key", "admin_api_key"})


class SglangPages:
    """Their handlers.

    Args:
        desk: What they work with.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.put(GENERATE, self._desk.serve),
            web.get("/health_generate", self.health_generate),
            *(web.get(path, self.info) for path in _INFO_PATHS),
            *(web.get(path, self.server_info) for path in _SERVER_INFO_PATHS),
            web.post(ABORT, self.abort_request),
            web.get(LOADS_PATH, self.loads),
        ]

    def administration(self) -> list[web.RouteDef]:
        """What changes servers for everybody."""
        return [web.post(FLUSH, self.flush_cache), web.post(ABORT, self.abort_everything)]

    async def health_generate(self, request: web.Request) -> web.StreamResponse:
        """200 if every server can compute a token."""
        agreed(await self._everyone(request, "GET", "/health_generate"), "the health check")
        return web.Response(text="")

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Pass on what one server says of the model."""
        reply = await self._desk.fan_out.first(request.path, request.headers.get("Authorization"))
        return web.Response(body=reply.body, headers={"Content-Type": reply.kind or JSON_TYPE})

    async def server_info(self, request: web.Request) -> web.StreamResponse:
        """What all servers say of themselves, as SGLang's benchmarks expect it."""
        replies = [r for r in await self._everyone(request, "GET", request.path) if r.ok]
        by_role: dict[str, list[Any]] = {}
        for reply in replies:
            by_role.setdefault(reply.backend.role.value, []).append(_shown(reply.value()))
        tokens_from = by_role.get("decode") or by_role.get("colocated") or []
        states = [
            state
            for info in tokens_from
            if isinstance(info, dict)
            for state in info.get("internal_states") or []
        ]
        if self._desk.pool.unified and len(tokens_from) == 1:
            return json_response(tokens_from[0])
        return json_response({"internal_states": states, **by_role})

    async def flush_cache(self, _request: web.Request) -> web.StreamResponse:
        """Flush all servers, with the router's own key."""
        agreed(await self._as_administrator(FLUSH), "flushing the cache")
        return web.Response(text="Cache flushed.\n")

    async def abort_everything(self, request: web.Request) -> web.StreamResponse:
        """Abort everything on all servers, with the router's own key."""
        if (await json_object(request)).get("abort_all") is not True:
            raise Problem(
                400, 'send {"abort_all": true}; one request is aborted at the public port.',
                "invalid_request",
            )  # fmt: skip
        raw = orjson.dumps({"abort_all": True})
        agreed(await self._as_administrator(ABORT, raw), "the abort")
        return web.Response(text="")

    async def loads(self, request: web.Request) -> web.StreamResponse:
        """The loads of all servers, each with its name."""
        query = f"?{asked}" if (asked := request.rel_url.raw_query_string) else ""
        loads = [
            {"backend": reply.backend.name, **load}
            for reply in await self._everyone(request, "GET", "/v1/loads" + query)
            for load in _loads_of(reply)
        ]
        return json_response({"loads": loads})

    async def abort_request(self, request: web.Request) -> web.StreamResponse:
        """Abort a request of this router by its id."""
        body = await json_object(request)
        if body.get("abort_all"):
            raise Problem(
                403, "abort_all is served by the administration's own listener alone.", "moved"
            )
        if not (isinstance(rid := body.get("rid"), str) and rid):
            raise Problem(400, "rid is missing: give it.", "invalid_request")
        # An id that is not known here is not passed on: a server would abort whatever begins with
        # it, whoever's it is.
        await self._desk.abort(rid, request.headers.get("Authorization"))
        return web.Response(text="")

    async def _as_administrator(self, path: str, body: bytes | None = None) -> list[Reply]:
        return await self._desk.fan_out.everyone("POST", path, body, key=self._desk.admin_key)

    async def _everyone(
        self, request: web.Request, method: str, path: str, body: bytes | None = None
    ) -> list[Reply]:
        key = request.headers.get("Authorization")
        return await self._desk.fan_out.everyone(method, path, body, key=key)


def _shown(info: Any) -> Any:
    """What a server says of itself, without its keys: some versions list all their arguments."""
    if not isinstance(info, dict):
        return info
    return {key: value for key, value in info.items() if key not in _KEYS}


def _loads_of(reply: Reply) -> list[dict[str, Any]]:
    value = reply.value() if reply.ok else None
    loads = value.get("loads") if isinstance(value, dict) else None
    return [load for load in loads or [] if isinstance(load, dict)]


PAGES = Pages(
    inference=(GENERATE, COMPLETIONS, CHAT_COMPLETIONS),
    more=lambda desk: SglangPages(desk).routes(),
    admin=lambda desk: SglangPages(desk).administration(),
    moved=(FLUSH,),
)
