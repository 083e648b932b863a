"""Passes requests on to the official router, with a target where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from voltana.cluster.ledger import Entry
from voltana.serving.router.intake import HeldBytes
from voltana.serving.router.problem import Lost, Problem
from voltana.serving.router.wire import ends_here, forwarded_headers
from voltana.values import Request
from voltana_sglang.dialect.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Set

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.engine import Call
    from voltana.serving.router.chooser import RoleChooser
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.prompt_length import PromptLength
    from voltana.serving.router.public import Public
    from voltana.serving.router.wire import Exchange, Wire
    from voltana_sglang.steer.targets import WorkerList

TARGET = "x-smg-target-worker"
ROUTED = "x-smg-routed-worker-id"

_NOT_STEERED = frozenset({502, 503})
"""What the official router answers where a target cannot be had."""

_KEPT_OUT = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of an answer that end at this hop, beside those that its ``Connection`` names."""

_ELSEWHERE = "(official router)"
"""Stands for the prefill instance, which the official router chooses."""


class Proxy:
    """The way of every request.

    Args:
        upstream: URL of the official router.
        wire: HTTP client.
        leg: Chooses the decode server.
        workers: Its number.
        ledger: What is in flight.
        lengths: Estimates prompts.
        time: Time source.
        public: What stands between clients and it.
        unread_s: Time that a client may leave a part of an answer unread.

    Attributes:
        steered: Requests that were given a target.
        unsteered: Those for which none was safe.
        repeated: Those whose target was refused, and that were sent again without.
    """

    def __init__(
        self,
        upstream: str,
        wire: Wire,
        *,
        leg: RoleChooser,
        workers: WorkerList,
        ledger: Ledger,
        lengths: PromptLength,
        time: TimeSource,
        public: Public,
        unread_s: float,
    ) -> None:
        self._upstream = upstream
        self._wire = wire
        self._leg = leg
        self._workers = workers
        self._ledger = ledger
        self._lengths = lengths
        self._time = time
        self._public = public
        self._unread_s = unread_s
        self._arrivals = self._arriving = 0
        self.steered = self.unsteered = self.repeated = 0

    @property
    def open(self) -> int:
        """Requests that are open, those included whose bodies are still being read."""
        return self._public.gate.open + self._arriving

    @property
    def draining(self) -> bool:
        """Whether new requests are refused, those on connections that are kept alive included."""
        return self._public.gate.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._public.gate.draining = draining

    async def public(self, request: web.Request) -> web.StreamResponse:
        """Pass the request of a client on.

        Raises:
            Problem: If it is one too many, too large or too late, or this proxy is shutting down.
        """
        public = self._public
        with HeldBytes(public.intake.budget) as held:
            public.gate.admit()
            self._arriving += 1
            try:
                body = bytes(await public.intake.body(request, held))
            finally:
                self._arriving -= 1
            public.doors.complete(request)
            return await self.serve(request, body)

    async def serve(
        self, request: web.Request, body: bytes, without: Set[str] = frozenset()
    ) -> web.StreamResponse:
        """Pass a request on that is complete.

        Args:
            request: The request.
            body: Its body, unpacked.
            without: Headers that are kept back.

        Raises:
            Problem: If it is one too many.
        """
        gate, client = self._public.gate, request.remote or ""
        try:
            gate.enter(client)
            headers = {
                name: value
                for name, value in forwarded_headers(request.headers).items()
                if name.lower() not in without
            }
            target = await self._target(request, body)
            if target is None:
                async with self._sent(request, body, headers) as reply:
                    return await self._pass_on(request, reply, None)
            return await self._steered(request, body, headers, *target)
        finally:
            gate.leave(client)

    async def _target(
        self, request: web.Request, body: bytes
    ) -> tuple[Backend, int, Call, int] | None:
        """Server, its number, the request, its prompt tokens; None to leave it alone."""
        if request.path not in PAGES.inference or TARGET in request.headers:
            return None
        try:
            call = await self._public.reader.understand(request.path, body)
            self._arrivals += 1
            tokens = self._lengths.estimate(call)
            plan = Request(
                request_id=self._arrivals, arrived_at_s=self._time.now_s(), prompt_tokens=tokens
            )
            backend = self._leg.choose(plan)
        except Problem:  # the official router has its own words for it
            self.unsteered += 1
            return None
        index = self._workers.index_of(backend.url)
        if index is None:
            self.unsteered += 1
            return None
        return backend, index, call, tokens

    async def _steered(  # noqa: PLR0917  (what `_target` found)
        self,
        request: web.Request,
        body: bytes,
        headers: dict[str, str],
        backend: Backend,
        index: int,
        call: Call,
        tokens: int,
    ) -> web.StreamResponse:
        self.steered += 1
        key = str(self._arrivals)
        # Without a stream nothing tells when its prefill is over: a report is believed to hold it.
        prefill = _ELSEWHERE if call.stream else None
        self._ledger.book(
            Entry(
                rid=key,
                prefill=prefill,
                decode=backend.name,
                requests=call.batch or 1,
                prompt_tokens=tokens,
                sent_s=self._time.now_s(),
            )
        )
        try:
            async with self._sent(request, body, headers | {TARGET: str(index)}) as reply:
                if reply.status not in _NOT_STEERED:
                    routed = reply.headers.get(ROUTED, backend.url).rstrip("/")
                    if "://" in routed and routed != backend.url:
                        self._workers.refute(backend.url, index, routed)
                    return await self._pass_on(request, reply, key)
            self.repeated += 1
            self._ledger.finished(key)
            async with self._sent(request, body, headers) as reply:
                return await self._pass_on(request, reply, None)
        finally:
            self._ledger.finished(key)

    @contextlib.asynccontextmanager
    async def _sent(
        self, request: web.Request, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator[Exchange]:
        url = self._upstream + request.path_qs
        call = self._wire.call(
            "official router", request.method, url, body or None, headers=headers
        )
        try:
            reply = await call.__aenter__()
        except Lost as lost:
            raise Problem(
                502,
                f"the official router at {self._upstream} cannot be reached: {lost.why}. "
                "Start it, or correct 'upstream'.",
                "upstream_unreachable",
                retry_after_s=1.0,
            ) from lost
        try:
            yield reply
        finally:
            await call.__aexit__(None, None, None)

    async def _pass_on(
        self, request: web.Request, reply: Exchange, key: str | None
    ) -> web.StreamResponse:
        """Pass the answer on piece by piece; a broken one stays recognisably broken."""
        out = _KEPT_OUT | ends_here(reply.headers)
        kept = [(n, v) for n, v in reply.headers.items() if n.lower() not in out]
        answer = web.StreamResponse(status=reply.status, reason=reply.reason)
        answer.headers.extend(kept)
        if "Content-Length" in reply.headers:
            answer.content_length = int(reply.headers["Content-Length"])
        try:
            await answer.prepare(request)
            while chunk := await reply.chunk():
                if key is not None:
                    self._ledger.prefilled(key, self._time.now_s())
                    key = None
                async with asyncio.timeout(self._unread_s):
                    await answer.write(chunk)
            await answer.write_eof()
        except (Lost, ConnectionError, TimeoutError):
            # Aborted rather than ended in order, so that the client sees that it is incomplete.
            if request.transport is not None:
                request.transport.abort()
        return answer
