"""The router's HTTP interface: SGLang's own, OpenAI's, and an admin part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from voltana.errors import ConfigError
from voltana.serving.router.fan_out import agreed
from voltana.serving.router.problem import JSON_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from voltana.serving.router.fan_out import FanOut, Reply
    from voltana.serving.router.forwarder import Forwarder
    from voltana.serving.router.ledger import Ledger
    from voltana.serving.router.metrics import Metrics
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.reports import Reports

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

INFERENCE_PATHS = ("/generate", "/v1/completions", "/v1/chat/completions")
_INFO_PATHS = ("/v1/models", "/model_info", "/get_model_info")
_SERVER_INFO_PATHS = ("/server_info", "/get_server_info")


class Interface:
    """Handlers of all paths but those of inference.

    Args:
        pool: The servers.
        forwarder: Answers requests.
        fan_out: Asks servers.
        ledger: What is in flight.
        reports: What instances said.
        metrics: Counters.
        now_s: Time source.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        forwarder: Forwarder,
        fan_out: FanOut,
        ledger: Ledger,
        reports: Reports,
        metrics: Metrics,
        now_s: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._forwarder = forwarder
        self._fan_out = fan_out
        self._ledger = ledger
        self._reports = reports
        self._metrics = metrics
        self._now_s = now_s

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """200 if a request could be served now."""
        if self._forwarder.draining:
            return web.Response(status=503, text="draining\n")
        if not self._pool.serving:
            down = ", ".join(f"{b.name}: {b.why}" for b in self._pool if not b.available)
            return web.Response(status=503, text=f"no server of some role is available ({down})\n")
        return web.Response(text="")

    async def health_generate(self, request: web.Request) -> web.StreamResponse:
        """200 if every server can compute a token."""
        agreed(await self._everyone(request, "GET", "/health_generate"), "the health check")
        return web.Response(text="")

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Pass on what one server says of the model."""
        reply = await self._fan_out.first(request.path, request.headers.get("Authorization"))
        return web.Response(body=reply.body, headers={"Content-Type": reply.kind or JSON_TYPE})

    async def server_info(self, request: web.Request) -> web.StreamResponse:
        """What all servers say of themselves, as SGLang's benchmarks expect it."""
        replies = [r for r in await self._everyone(request, "GET", request.path) if r.ok]
        by_role: dict[str, list[Any]] = {}
        for reply in replies:
            by_role.setdefault(reply.backend.role.value, []).append(reply.value())
        tokens_from = by_role.get("decode") or by_role.get("colocated") or []
        states = [
            state
            for info in tokens_from
            if isinstance(info, dict)
            for state in info.get("internal_states") or []
        ]
        if self._pool.unified and len(tokens_from) == 1:
            return _json(tokens_from[0])
        return _json({"internal_states": states, **by_role})

    async def flush_cache(self, request: web.Request) -> web.StreamResponse:
        """Flush all servers."""
        agreed(await self._everyone(request, "POST", "/flush_cache"), "flushing the cache")
        return web.Response(text="Cache flushed.\n")

    async def loads(self, request: web.Request) -> web.StreamResponse:
        """The loads of all servers, each with its name."""
        query = f"?{request.query_string}" if request.query_string else ""
        loads = [
            {"backend": reply.backend.name, **load}
            for reply in await self._everyone(request, "GET", "/v1/loads" + query)
            for load in _loads_of(reply)
        ]
        return _json({"loads": loads})

    async def abort_request(self, request: web.Request) -> web.StreamResponse:
        """Abort a request of this router by its id, or everything."""
        body = await _object(request)
        if body.get("abort_all"):
            raw = orjson.dumps({"abort_all": True})
            agreed(await self._everyone(request, "POST", "/abort_request", raw), "the abort")
        elif not (isinstance(rid := body.get("rid"), str) and rid):
            raise Problem(400, "rid is missing: give it, or abort_all.", "invalid_request")
        elif not await self._forwarder.abort(rid, request.headers.get("Authorization")):
            # Ids of the prompts of a batch, which only the servers know.
            raw = orjson.dumps({"rid": rid})
            agreed(await self._everyone(request, "POST", "/abort_request", raw), "the abort")
        return web.Response(text="")

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """Prometheus."""
        self._metrics.open.set(self._forwarder.open)
        return web.Response(
            body=self._metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """What the router knows of its servers."""
        now_s = self._now_s()
        return _json(
            {
                "serving": self._pool.serving and not self._forwarder.draining,
                "draining": self._forwarder.draining,
                "open_requests": self._forwarder.open,
                "backends": [self._describe(backend.name, now_s) for backend in self._pool],
            }
        )

    async def drain(self, request: web.Request) -> web.StreamResponse:
        """Take a server out of service, or put it back: {"backend": NAME, "draining": bool}."""
        body = await _object(request)
        name, draining = body.get("backend"), body.get("draining", True)
        if not isinstance(name, str) or not isinstance(draining, bool):
            raise Problem(
                400, 'send {"backend": NAME, "draining": true or false}.', "invalid_request"
            )
        try:
            self._pool.named(name).draining = draining
        except ConfigError as error:
            raise Problem(404, str(error), "unknown_backend") from None
        return _json(self._describe(name, self._now_s()))

    async def _everyone(
        self, request: web.Request, method: str, path: str, body: bytes | None = None
    ) -> list[Reply]:
        key = request.headers.get("Authorization")
        return await self._fan_out.everyone(method, path, body, key=key)

    def _describe(self, name: str, now_s: float) -> dict[str, Any]:
        backend, report = self._pool.named(name), self._reports.fresh(name, now_s)
        return {
            "name": name,
            "role": backend.role.value,
            "url": backend.url,
            "healthy": backend.healthy,
            "draining": backend.draining,
            "why": backend.why,
            "in_flight": self._ledger.in_flight(name),
            "state": report.source if report else "stale",
            "state_age_s": round(now_s - report.sampled_s, 4) if report else None,
            "running_requests": report.state.running_requests if report else None,
        }


def make_app(interface: Interface, forwarder: Forwarder, max_body_bytes: int) -> web.Application:
    """The application with all paths.

    Args:
        interface: Everything but inference.
        forwarder: Inference.
        max_body_bytes: Larger requests are refused.
    """
    app = web.Application(client_max_size=max_body_bytes, middlewares=[explain_errors])
    for path in INFERENCE_PATHS:
        app.router.add_post(path, forwarder.serve)
    app.router.add_put("/generate", forwarder.serve)
    app.router.add_get("/health", interface.health)
    app.router.add_get("/health_generate", interface.health_generate)
    for path in _INFO_PATHS:
        app.router.add_get(path, interface.info)
    for path in _SERVER_INFO_PATHS:
        app.router.add_get(path, interface.server_info)
    app.router.add_get("/flush_cache", interface.flush_cache)
    app.router.add_post("/flush_cache", interface.flush_cache)
    app.router.add_post("/abort_request", interface.abort_request)
    app.router.add_get("/v1/loads", interface.loads)
    app.router.add_get("/metrics", interface.metrics)
    app.router.add_get("/router/status", interface.status)
    app.router.add_post("/router/drain", interface.drain)
    return app


@web.middleware
async def explain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of the HTTP layer, and ours, in OpenAI's format."""
    try:
        return await handler(request)
    except Problem as problem:
        return _refuse(problem)
    except web.HTTPRequestEntityTooLarge as error:
        return _refuse(Problem(413, f"the request is too large: {error.text}", "too_large"))
    except web.HTTPNotFound:
        known = ", ".join(INFERENCE_PATHS)
        text = f"{request.path} is not served by this router. Requests go to {known}."
        return _refuse(Problem(404, text, "not_found"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.method} {request.path} is not allowed: must be {allowed}."
        return _refuse(Problem(405, text, "method_not_allowed"))


def _refuse(problem: Problem) -> web.Response:
    return web.Response(
        body=problem.body(),
        status=problem.status,
        headers={"Content-Type": problem.body_type, **problem.headers()},
    )


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), headers={"Content-Type": JSON_TYPE})


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        value = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not valid JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body must be a JSON object.", "invalid_json")
    return value


def _loads_of(reply: Reply) -> list[dict[str, Any]]:
    value = reply.value() if reply.ok else None
    loads = value.get("loads") if isinstance(value, dict) else None
    return [load for load in loads or [] if isinstance(load, dict)]
