"""SGLang servers without an engine, no laxer than the real ones in what a router can get wrong.

A decode server answers only once a prefill server, the one that the request names, computes the
same room; a prefill server is done only when the decode server has come for it. Rooms and request
ids that are in use already are refused, and requests without a room. Answers are a function of
the prompt alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections import deque
from typing import Any

from aiohttp import web

from tests.serving.work_gate import Gate

TRANSFER_TIMEOUT_S = 5.0
WORDS = 8


class Transfers:
    """The rooms of one cluster: where both legs of a request meet."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[int, int], dict[str, asyncio.Event]] = {}
        self.used: set[tuple[int, int, str]] = set()
        self.complaints: list[str] = []

    def _room(self, port: int, room: int) -> dict[str, asyncio.Event]:
        return self.rooms.setdefault(
            (port, room), {"prefill": asyncio.Event(), "decode": asyncio.Event()}
        )

    async def meet(self, role: str, port: int, room: int) -> None:
        """Wait for the other leg.

        Raises:
            TimeoutError: If it does not come, as KV transfers time out.
        """
        if (port, room, role) in self.used:
            self.complaints.append(f"room {room} is used twice by {role}")
        self.used.add((port, room, role))
        meeting = self._room(port, room)
        meeting[role].set()
        other = "decode" if role == "prefill" else "prefill"
        async with asyncio.timeout(TRANSFER_TIMEOUT_S):
            await meeting[other].wait()


class FakeServer:
    """One server on a free port of the loopback interface.

    Attributes:
        faults: What goes wrong with coming requests, one each: ``500``, ``503``, ``400``, ``hang``,
            ``reset`` (before the first byte), ``reset-mid`` (in the stream), ``cut`` (a stream that
            ends in order but early), ``sse-error`` (status 200, an error as first event),
            ``refused`` (a prompt that is too long: status 400, or in the first event of a stream),
            ``refused-met`` (the same after the transfer and `token_s`).
        always: The same for every request; None for none.
        token_s: Time between two tokens.
        gate: Holds its work at the end, where a test closes it.
        padding: Bytes that each event of a stream carries beside its text.
        aborted: Ids that it was told to abort.
        seen: Bodies that it got.
        busy: How many flushes it refuses, as a server does that is not idle yet.
        info: More of what it says of itself.
        cancelled: Requests that ended before their end: aborted, or their connection closed.
    """

    def __init__(self, name: str, role: str, transfers: Transfers) -> None:
        self.name = name
        self.role = role
        self.transfers = transfers
        self.faults: deque[str] = deque()
        self.always: str | None = None
        self.token_s = 0.0
        self.gate = Gate()
        self.padding = 0
        self.healthy, self.hanging_health = True, False
        self.aborted: set[str] = set()
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self._stops: dict[str, asyncio.Event] = {}
        self.running: set[str] = set()
        self.loads: dict[str, Any] | None = None
        self.odd_loads: list[Any] = []
        self.loads_asked = 0
        self.flushed = 0
        self.busy = 0
        self.info: dict[str, Any] = {}
        self.api_key: str | None = None
        self.admin_api_key: str | None = None
        self.unauthorised: list[str] = []
        self.port = self.bootstrap_port = 0
        self._runner: web.AppRunner | None = None
        self._restarting = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port after the first time."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 30)
        for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._serve)
        app.router.add_get("/health", self._health)
        app.router.add_get("/health_generate", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/model_info", self._models)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/v1/loads", self._loads)
        app.router.add_post("/flush_cache", self._flush)
        app.router.add_post("/abort_request", self._abort)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]
        if not self.bootstrap_port:
            self.bootstrap_port = self.port

    async def stop(self) -> None:
        """Die: open connections are reset and nobody listens any more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def restart(self, down_s: float) -> None:
        """Die, and come back on the same port; nothing while it does so already."""
        if self._restarting:
            return
        self._restarting = True
        try:
            await self._come_back(down_s)
        finally:
            self._restarting = False

    async def _come_back(self, down_s: float) -> None:
        await self.stop()
        await asyncio.sleep(down_s)
        while True:
            try:
                await self.start()
            except OSError:  # a connection has taken the port meanwhile
                await self.stop()
                await asyncio.sleep(down_s)
            else:
                return

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """As the real one: aborts and flushes need the admin key if there is one."""
        admin = request.path in {"/flush_cache", "/abort_request"}
        key = (self.admin_api_key if admin else None) or self.api_key
        free = key is None or request.path.startswith(("/health", "/metrics"))
        if not free and request.headers.get("Authorization") != f"Bearer {key}":
            self.unauthorised.append(request.path)
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        if self.hanging_health:
            await asyncio.sleep(60)
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "from": self.name})

    async def _server_info(self, _request: web.Request) -> web.Response:
        return web.json_response({"internal_states": [{"of": self.name}], **self.info})

    async def _loads(self, _request: web.Request) -> web.Response:
        self.loads_asked += 1
        if self.odd_loads:
            return web.json_response(self.odd_loads[0])
        if self.loads is None:
            return web.Response(status=404)
        return web.json_response({"loads": [self.loads]})

    async def _flush(self, _request: web.Request) -> web.Response:
        if self.busy:
            self.busy -= 1
            return web.Response(status=400, text="Flush cache failed.\n")
        self.flushed += 1
        return web.Response(text="Cache flushed.")

    async def _abort(self, request: web.Request) -> web.Response:
        body = await request.json()
        everything = bool(body.get("abort_all"))
        self.aborted.add("*" if everything else body["rid"])
        for rid, stop in self._stops.items():  # it aborts whatever begins with the id
            if everything or rid.startswith(body["rid"]):
                stop.set()
        return web.Response()

    async def _stopped(self, body: dict[str, Any], work_s: float) -> bool:
        """Whether a request of one prompt is aborted before its work is done; counts it."""
        if not work_s and self.gate.is_open:
            return False
        rid = str(body.get("rid"))
        stop = self._stops[rid] = asyncio.Event()
        try:
            done = await self.gate.work(work_s, stop)
        finally:
            self._stops.pop(rid, None)
        self.cancelled += not done
        return not done

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        try:
            return await self._answered(request, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _answered(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = self.always or (self.faults.popleft() if self.faults else None)
        if fault == "hang":
            await asyncio.sleep(60)
        if fault in {"400", "500", "503"}:
            return _refusal(int(fault), f"{self.name} was told to fail")
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        rids = set(map(str, as_list(body.get("rid"))))
        if rids & self.running:
            return _refusal(400, f"Duplicate request ID detected: {rids & self.running}")
        prompts = prompts_of(request.path, body)
        wrong = self._wrong(body, prompts)
        if wrong:
            self.transfers.complaints.append(f"{self.name}: {wrong}")
            return _refusal(400, wrong)
        self.running |= rids
        try:
            return await self._computed(request, body, prompts, fault)
        finally:
            self.running -= rids

    def _wrong(self, body: dict[str, Any], prompts: list[str]) -> str:
        keys = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
        if self.role == "unified":
            return "bootstrap on a unified server" if any(k in body for k in keys) else ""
        if any(body.get(key) is None for key in keys):
            return "Disaggregated request received without bootstrap room id."
        batch, ports = is_batch(body), as_list(body["bootstrap_port"])
        complaints = {
            "bootstrap fields must be lists exactly for a batch": any(
                isinstance(body[key], list) != batch for key in keys
            ),
            "bootstrap fields have another length than the batch": batch
            and any(len(body[key]) != len(prompts) for key in keys),
            "bootstrap_room out of range": any(
                not 0 <= room < 2**63 for room in as_list(body["bootstrap_room"])
            ),
            "this is not the prefill server that the request names": self.role == "prefill"
            and any(port != self.bootstrap_port for port in ports),
        }
        return next((text for text, holds in complaints.items() if holds), "")

    async def _computed(
        self, request: web.Request, body: dict[str, Any], prompts: list[str], fault: str | None
    ) -> web.StreamResponse:
        stream = body.get("stream", False)
        reply: web.StreamResponse | None = None
        if stream:  # a stream's headers are sent before anything is computed
            reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await reply.prepare(request)
        if fault == "refused":
            return await _refused(request, body, reply)
        if self.role != "unified":
            try:
                async with asyncio.TaskGroup() as group:
                    for port, room in zip(
                        as_list(body["bootstrap_port"]),
                        as_list(body["bootstrap_room"]),
                        strict=True,
                    ):
                        group.create_task(self.transfers.meet(self.role, port, room))
            except* TimeoutError:
                fault = "sse-error" if stream else "500"
        if fault == "500":
            return _refusal(500, "KVTransferError")
        if fault == "refused-met":
            await self.gate.work(self.token_s)
            return await _refused(request, body, reply)
        if reply is None:
            if await self._stopped(body, self.token_s * WORDS + body.get("slow", 0.0)):
                return _refusal(400, "Request is aborted.")
            _reset(request, fault)
            answer = whole_answer(request.path, body, prompts, self.role)
            return web.json_response({**answer, **_padding(body)} if "pad" in body else answer)
        return await self._streamed(request, body, prompts, reply, fault)

    async def _streamed(
        self,
        request: web.Request,
        body: dict[str, Any],
        prompts: list[str],
        reply: web.StreamResponse,
        fault: str | None,
    ) -> web.StreamResponse:
        if fault == "sse-error":
            await _event(reply, {"error": {"message": "KVTransferError", "code": 500}})
            await reply.write(b"data: [DONE]\n\n")
            return reply
        pause_s = self.token_s + body.get("slow", 0.0) / WORDS
        events = stream_events(request.path, body, prompts, self.role)
        for number, event in enumerate(events):
            if number == 2 and fault == "reset-mid":
                assert request.transport is not None
                request.transport.abort()
                return reply
            if number == 2 and fault == "cut":
                return reply
            if any(str(body.get("rid")).startswith(rid) for rid in self.aborted):
                self.cancelled += 1
                break
            if await self._stopped(body, pause_s):
                break
            await asyncio.sleep(0)
            padding = {"padding": "x" * self.padding} if self.padding else _padding(body)
            await _event(reply, event | padding)
        await reply.write(b"data: [DONE]\n\n")
        return reply


def _reset(request: web.Request, fault: str | None) -> None:
    if fault == "reset-mid":
        assert request.transport is not None
        request.transport.abort()


def _padding(body: dict[str, Any]) -> dict[str, str]:
    """As many bytes beside the text as the request asks for (``pad``)."""
    return {"padding": "x" * body["pad"]} if body.get("pad") else {}


async def _event(reply: web.StreamResponse, value: Any) -> None:
    await reply.write(b"data: " + json.dumps(value).encode() + b"\n\n")


async def _refused(
    request: web.Request, body: dict[str, Any], reply: web.StreamResponse | None
) -> web.StreamResponse:
    """A prompt that is longer than this server's own limit, as SGLang says it on each path."""
    message = "The input (70000 tokens) is longer than the limit"
    if reply is None:
        return _refusal(400, message)
    if request.path == "/generate":
        reason = {"type": "abort", "message": message, "status_code": 400}
        event: Any = {"text": "", "meta_info": {"id": body.get("rid"), "finish_reason": reason}}
    else:
        event = {"error": {"object": "error", "message": message, "code": 400}}
    await _event(reply, event)
    await reply.write(b"data: [DONE]\n\n")
    return reply


def _refusal(status: int, message: str) -> web.Response:
    body = {"object": "error", "message": message, "type": str(status), "code": status}
    return web.json_response(body, status=status)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_batch(body: dict[str, Any]) -> bool:
    prompt = body.get("text") or body.get("input_ids") or body.get("prompt")
    return isinstance(prompt, list) and isinstance(prompt[0], str | list)


def prompts_of(path: str, body: dict[str, Any]) -> list[str]:
    if path == "/v1/chat/completions":
        return [str(body["messages"])]
    prompt = body.get("text") or body.get("input_ids") or body.get("prompt")
    return [str(p) for p in prompt] if is_batch(body) else [str(prompt)]


def words_of(prompt: str) -> list[str]:
    # In one call: over 100 kB a loop took 30 ms, for which honest requests waited at the fake.
    seed = zlib.crc32(prompt.encode("utf-8", "surrogatepass"))
    return [f"{seed * (i + 3) % 997}" for i in range(WORDS)]


def whole_answer(path: str, body: dict[str, Any], prompts: list[str], role: str) -> Any:
    if path != "/generate":
        choices = [{"index": i, "text": " ".join(words_of(p))} for i, p in enumerate(prompts)]
        return {"id": body.get("rid"), "choices": choices, "usage": {"prompt_tokens": 7}}
    answers = [_generated(body, p, i, role, WORDS) for i, p in enumerate(prompts)]
    return answers if is_batch(body) else answers[0]


def stream_events(path: str, body: dict[str, Any], prompts: list[str], role: str) -> list[Any]:
    if path != "/generate":
        return [
            {"id": body.get("rid"), "choices": [{"index": i, "text": word}]}
            for i, p in enumerate(prompts)
            for word in words_of(p)
        ]
    return [
        _generated(body, p, i, role, n + 1) | {"index": i}
        for i, p in enumerate(prompts)
        for n in range(WORDS)
    ]


def _generated(body: dict[str, Any], prompt: str, index: int, role: str, words: int) -> Any:
    meta: dict[str, Any] = {"id": f"{body.get('rid')}", "prompt_tokens": len(prompt) // 2}
    if body.get("return_logprob"):
        known = [[-float(i), i, None] for i in range(3)]
        meta["input_token_logprobs"] = [] if role == "decode" else known
    return {"text": " ".join(words_of(prompt)[:words]), "meta_info": meta}


@contextlib.asynccontextmanager
async def fake_servers(**counts: int) -> Any:
    """Servers by role: ``fake_servers(prefill=1, decode=2)`` yields a dict by name."""
    transfers = Transfers()
    servers = {
        f"{role}-{i}": FakeServer(f"{role}-{i}", role, transfers)
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
