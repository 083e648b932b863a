"""The pages of a virtual SGLang."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from voltana_sglang.rehearsal.answers import (
    DONE,
    Given,
    abort_reason,
    answer_object,
    error_frame,
    error_object,
    frame,
)
from voltana_sglang.rehearsal.asked import CHAT, COMPLETIONS, GENERATE, RefusedError, read_body
from voltana_sglang.rehearsal.serving import ABORTED

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable, Sequence

    from voltana.cluster.context import EngineLimits
    from voltana_sglang.rehearsal.asked import Body
    from voltana_sglang.rehearsal.serving import Progress, Role

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = frozenset({"/health", "/health_generate", "/metrics"})
ADMIN = frozenset({"/abort_request", "/flush_cache"})

_MOST_BYTES = 1 << 28


class Pages:
    """Answers requests.

    Args:
        arguments: Those of the server.
        role: What it serves.
        limits: What its engine takes.
    """

    def __init__(self, arguments: Namespace, role: Role, limits: EngineLimits) -> None:
        self._arguments = arguments
        self._role = role
        self._limits = limits

    def app(self) -> web.Application:
        """All pages."""
        made = web.Application(client_max_size=_MOST_BYTES, middlewares=[self._guard])
        made.add_routes(
            [
                *(web.post(path, self.generate) for path in (GENERATE, COMPLETIONS, CHAT)),
                web.put(GENERATE, self.generate),
                web.get("/health", self.health),
                web.get("/health_generate", self.health),
                web.get("/v1/models", self.models),
                *(web.get(path, self.model_info) for path in ("/model_info", "/get_model_info")),
                *(web.get(path, self.server_info) for path in ("/server_info", "/get_server_info")),
                web.get("/v1/loads", self.loads),
                web.post("/abort_request", self.abort),
                web.post("/flush_cache", self.flush),
                web.get("/flush_cache", self.flush),
            ]
        )
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """SGLang's two keys: one for everything but health, one for what concerns everybody."""
        own, admin = self._arguments.api_key, self._arguments.admin_api_key
        key = admin if request.path in ADMIN and admin else own
        if key and request.path not in OPEN:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), key.encode()):
                return _json({"error": "Unauthorized"}, 401)
        return await handler(request)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer prompts, in a stream or as a whole."""
        try:
            body = read_body(request.path, _loads(await request.read()))
            self._check_lengths(body)
        except RefusedError as error:
            return _json(error_object(str(error), 400), 400)
        asked_for = [self._role.submit(asked, stream=body.stream) for asked in body.prompts]
        try:
            if body.stream:
                return await self._stream(request, asked_for, batch=body.batch)
            return await self._whole(request.path, asked_for, batch=body.batch)
        except (asyncio.CancelledError, ConnectionError):
            for progress in asked_for:  # nobody reads the answer any more
                self._role.abort(progress.asked.rid, abort_reason(ABORTED, None))
            raise

    def _check_lengths(self, body: Body) -> None:
        for asked in body.prompts:
            if not self._limits.can_hold(asked.prompt_tokens):
                raise RefusedError(
                    f"The input ({asked.prompt_tokens} tokens) is longer than the model's context "
                    f"length ({int(self._limits.kv_capacity_tokens)} tokens)."
                )

    async def _whole(
        self, path: str, all_progress: Sequence[Progress], *, batch: bool
    ) -> web.StreamResponse:
        made = []
        for index, progress in enumerate(all_progress):
            while progress.reason is None:
                await progress.news()
            if (status := progress.reason.get("status_code")) is not None:
                return _json(error_object(progress.reason["message"], status), status)
            made.append(answer_object(path, self._model, _given(progress, index, 0), batch=batch))
        if path != GENERATE and batch:
            whole = made[0] | {"choices": [one["choices"][0] for one in made]}
            return _json(whole)
        return _json(made if batch else made[0])

    async def _stream(
        self, request: web.Request, all_progress: Sequence[Progress], *, batch: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await asyncio.gather(
            *(
                self._frames(request.path, response, progress, index, batch=batch)
                for index, progress in enumerate(all_progress)
            )
        )
        await response.write(DONE)
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _frames(
        self,
        path: str,
        response: web.StreamResponse,
        progress: Progress,
        index: int,
        *,
        batch: bool,
    ) -> None:
        told = 0
        while progress.reason is None or told < progress.tokens:
            await progress.news()
            reason = progress.reason
            if reason is not None and reason.get("status_code") is not None:
                error = error_frame(reason["message"], reason["status_code"])
                await response.write(error.removesuffix(DONE))
                return
            given = _given(progress, index, told)
            told = given.tokens
            await response.write(frame(path, self._model, given, batch=batch))
            if given.reason is not None:
                return

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """It lives."""
        return web.Response(text="")

    async def models(self, _request: web.Request) -> web.StreamResponse:
        """The model, as OpenAI lists it."""
        return _json({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    async def model_info(self, _request: web.Request) -> web.StreamResponse:
        """The model, as SGLang tells it."""
        return _json({"model_path": self._model, "is_generation": True, "has_image_understanding":
                      False, "weight_version": "default"})  # fmt: skip

    async def server_info(self, _request: web.Request) -> web.StreamResponse:
        """The arguments, and what goes on."""
        shown = {k: v for k, v in vars(self._arguments).items() if "api_key" not in k}
        state = self._role.state()
        return _json(shown | {"internal_states": [{"running": state.running_requests}]})

    async def loads(self, _request: web.Request) -> web.StreamResponse:
        """What it is at work on."""
        state = self._role.state()
        load = {
            "dp_rank": 0,
            "num_running_reqs": state.running_requests,
            "num_waiting_reqs": state.queued_requests,
            "num_used_tokens": state.kv_tokens,
            "num_active_tokens": state.kv_tokens,
            "num_waiting_uncached_tokens": state.queued_tokens,
            "max_total_num_tokens": int(self._limits.kv_capacity_tokens),
        }
        return _json({"loads": [load]})

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Give up all requests whose id begins with the one that is given."""
        fields = _loads(await request.read())
        if not isinstance(fields, dict):
            return _json(error_object("the body must be a JSON object", 400), 400)
        rid, everything = fields.get("rid") or "", fields.get("abort_all") is True
        for known in self._role.rids():
            if everything or (rid and known.startswith(rid)):
                self._role.abort(known, abort_reason("Abort in queue or batch", None))
        return web.Response(text="")

    async def flush(self, _request: web.Request) -> web.StreamResponse:
        """There is no cache to flush; SGLang refuses while it is at work."""
        if self._role.rids():
            return web.Response(status=400, text="Flush cache failed: requests are running.\n")
        return web.Response(text="Cache flushed.\n")

    @property
    def _model(self) -> str:
        return str(self._arguments.model_path)


def _given(progress: Progress, index: int, told: int) -> Given:
    return Given(
        asked=progress.asked,
        index=index,
        tokens=progress.tokens,
        told=told,
        reason=progress.reason,
    )


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
