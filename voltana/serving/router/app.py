"""The router's HTTP interface: OpenAI's and what an engine adds; its administration apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from voltana.errors import ConfigError
from voltana.serving.frames import let_go
from voltana.serving.router.answer import refuse
from voltana.serving.router.bodies import json_object, json_response
from voltana.serving.router.pages import Desk
from voltana.serving.router.problem import JSON_TYPE, Problem
from voltana_actuatord.metrics.exposition import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiohttp.typedefs import Middleware

    from voltana.cluster.ledger import Ledger
    from voltana.serving.router.doors import Doors
    from voltana.serving.router.fan_out import FanOut
    from voltana.serving.router.forwarder import Forwarder
    from voltana.serving.router.holding import Holding
    from voltana.serving.router.metrics import Metrics
    from voltana.serving.router.pages import Pages
    from voltana.serving.router.pool import Pool
    from voltana.serving.router.reports import Reports
    from voltana.serving.router.wants import Wants
    from voltana.values import Role

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHORT = 1 << 20
"""Longest body of what is no request for inference."""
STATUS = "/router/status"
DRAIN = "/router/drain"


class Interface:
    """Handlers of the paths that every router has but those of inference.

    Args:
        pool: The servers.
        forwarder: Answers requests.
        fan_out: Asks servers.
        ledger: What is in flight.
        reports: What instances said.
        wants: What the router of each role needs and does not get.
        holding: What routers have deferred.
        metrics: Counters.
        admin_key: ``Authorization`` for what changes servers; None for none.
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
        wants: Mapping[Role, Wants],
        holding: Holding,
        metrics: Metrics,
        admin_key: str | None,
        now_s: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._forwarder = forwarder
        self._fan_out = fan_out
        self._ledger = ledger
        self._reports = reports
        self._wants = wants
        self._holding = holding
        self._metrics = metrics
        self._admin_key = admin_key
        self._now_s = now_s

    @property
    def desk(self) -> Desk:
        """What the engine's own pages may use."""
        forwarder = self._forwarder
        return Desk(
            pool=self._pool,
            fan_out=self._fan_out,
            serve=forwarder.serve,
            abort=forwarder.abort,
            admin_key=self._admin_key,
        )

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """200 if a request could be served now."""
        if self._forwarder.draining:
            return web.Response(status=503, text="draining\n")
        if not self._pool.serving:
            down = ", ".join(f"{b.name}: {b.why}" for b in self._pool if not b.available)
            return web.Response(status=503, text=f"no server of some role is available ({down})\n")
        return web.Response(text="")

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Pass on what one server says of its models."""
        reply = await self._fan_out.first(request.path, request.headers.get("Authorization"))
        return web.Response(body=reply.body, headers={"Content-Type": reply.kind or JSON_TYPE})

    async def metrics(self, _request: web.Request) -> web.StreamResponse:
        """Prometheus."""
        body, kind = self.figures()
        return web.Response(body=body, headers={"Content-Type": kind})

    def figures(self) -> tuple[bytes, str]:
        """The metrics as text, and its content type."""
        self._metrics.open.set(self._forwarder.open)
        return self._metrics.text(), CONTENT_TYPE

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """What the router knows of its servers."""
        now_s = self._now_s()
        return json_response(
            {
                "serving": self._pool.serving and not self._forwarder.draining,
                "draining": self._forwarder.draining,
                "open_requests": self._forwarder.open,
                "holding": self._holding.figures(),
                "routing": {role.value: w.figures() for role, w in self._wants.items()},
                "backends": [self._describe(backend.name, now_s) for backend in self._pool],
            }
        )

    async def drain(self, request: web.Request) -> web.StreamResponse:
        """Take a server out of service, or put it back: {"backend": NAME, "draining": bool}."""
        body = await json_object(request)
        name, draining = body.get("backend"), body.get("draining", True)
        known = body.keys() <= {"backend", "draining"}  # a misspelt word would drain it
        if not known or not isinstance(name, str) or not isinstance(draining, bool):
            raise Problem(
                400, 'send {"backend": NAME, "draining": true or false}.', "invalid_request"
            )
        try:
            self._pool.named(name).draining = draining
        except ConfigError as error:
            raise Problem(404, str(error), "unknown_backend") from None
        return json_response(self._describe(name, self._now_s()))

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
            "held_kv_tokens": self._ledger.caches.held(name, now_s).prompt_tokens,
            "state": report.source if report else "stale",
            "state_age_s": round(now_s - report.sampled_s, 4) if report else None,
            "running_requests": report.state.running_requests if report else None,
        }


def make_app(
    interface: Interface, forwarder: Forwarder, pages: Pages, doors: Doors
) -> web.Application:
    """The application with all paths.

    Args:
        interface: Everything but inference.
        forwarder: Inference.
        pages: The engine's own.
        doors: The connections of clients.
    """
    explain = errors_explained(pages.inference, pages.moved)
    app = web.Application(client_max_size=SHORT, middlewares=[doors.attended(), explain])
    for path in pages.inference:
        app.router.add_post(path, forwarder.serve)
    app.router.add_get("/health", interface.health)
    app.router.add_get("/v1/models", interface.models)
    app.router.add_routes(pages.more(interface.desk))
    return app


def administration(interface: Interface, pages: Pages) -> list[web.AbstractRouteDef]:
    """What is served on the administration's own listener (`administration.py`).

    Args:
        interface: Everything but inference.
        pages: The engine's own.
    """
    return [
        web.get("/health", interface.health),
        web.get("/metrics", interface.metrics),
        web.get(STATUS, interface.status),
        web.post(DRAIN, interface.drain),
        *pages.admin(interface.desk),
    ]


def errors_explained(inference: Sequence[str], moved: Sequence[str] = ()) -> Middleware:
    """Errors of the HTTP layer, and ours, in OpenAI's format.

    Args:
        inference: Paths of requests, which a client that knows none is told.
        moved: Further paths of the administration.
    """

    @web.middleware
    async def explain(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return refuse(problem)
        except web.HTTPRequestEntityTooLarge as error:
            return refuse(Problem(413, f"the request is too large: {error.text}", "too_large"))
        except web.HTTPNotFound as error:
            let_go(error)  # the route keeps it
            if request.path in {STATUS, DRAIN, "/metrics", *moved}:
                text = f"{request.path} is served by the administration's own listener "
                text += "(router.admin_host, router.admin_port)."
                return refuse(Problem(404, text, "moved"))
            known = ", ".join(inference)
            text = f"{request.path} is not served by this router. Requests go to {known}."
            return refuse(Problem(404, text, "not_found"))
        except web.HTTPMethodNotAllowed as error:
            let_go(error)  # the route keeps it
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"{request.method} {request.path} is not allowed: must be {allowed}."
            return refuse(Problem(405, text, "method_not_allowed"))

    return explain
