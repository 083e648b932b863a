"""Passes requests on to the official router, with a target where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from voltana.cluster.ledger import Entry
from voltana.serving.router.problem import Lost, Problem, overdue
from voltana.serving.router.wire import forwarded_headers
from voltana.values import Request
from voltana_sglang.dialect.call import parse_call
from voltana_sglang.dialect.pages import PAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Set

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.engine import Call
    from voltana.serving.router.chooser import RoleChooser
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.prompt_length import PromptLength
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
        max_in_flight: Requests that may be open.
        timeout_s: Time that a request may take to arrive.

    Attributes:
        draining: New requests are refused, those on connections that are kept alive included.
        steered: Requests that were given a target.
        unsteered: Those for which none was safe.
        repeated: Those whose target was refused, and that were sent again without.
        open: Requests that are open.
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
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._upstream = upstream
        self._wire = wire
        self._leg = leg
        self._workers = workers
        self._ledger = ledger
        self._lengths = lengths
        self._time = time
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._arrivals = 0
        self.draining = False
        self.steered = self.unsteered = self.repeated = self.open = 0

    async def serve(
        self, request: web.Request, without: Set[str] = frozenset()
    ) -> web.StreamResponse:
        """Pass one request on.

        Args:
            request: The request.
            without: Headers that are kept back.

        Raises:
            Problem: If it is one too many, or this proxy is shutting down.
        """
        self._admit()
        self.open += 1
        try:
            body = await self._body(request)
            headers = {
                name: value
                for name, value in forwarded_headers(request.headers).items()
                if name.lower() not in without
            }
            target = self._target(request, body)
            if target is None:
                async with self._sent(request, body, headers) as reply:
                    return await self._pass_on(request, reply, None)
            return await self._steered(request, body, headers, *target)
        finally:
            self.open -= 1

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await request.read()
        except TimeoutError:
            raise overdue(self._timeout_s) from None

    def _admit(self) -> None:
        if self.draining:
            raise Problem(
                503,
                "this proxy is shutting down. Send the request to another one.",
                "shutting_down",
                retry_after_s=1.0,
            )
        if self.open >= self._max_in_flight:
            raise Problem(
                429,
                f"{self._max_in_flight} requests are open, the limit of this proxy "
                "(max_in_flight). Try again later.",
                "overloaded",
                retry_after_s=1.0,
            )

    def _target(self, request: web.Request, body: bytes) -> tuple[Backend, int, Call, int] | None:
        """Server, its number, the request, its prompt tokens; None to leave it alone."""
        if request.path not in PAGES.inference or TARGET in request.headers:
            return None
        try:
            call = parse_call(request.path, body)
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
            "official router", request.method, url, body or None, headers=headers, follow=False
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
        named = {n.strip().lower() for n in reply.headers.get("Connection", "").split(",")}
        ends_here = _KEPT_OUT | named
        kept = [(n, v) for n, v in reply.headers.items() if n.lower() not in ends_here]
        answer = web.StreamResponse(status=reply.status, reason=reply.reason)
        answer.headers.extend(kept)
        if "Content-Length" in reply.headers:
            answer.content_length = int(reply.headers["Content-Length"])
        await answer.prepare(request)
        try:
            while chunk := await reply.chunk():
                if key is not None:
                    self._ledger.prefilled(key, self._time.now_s())
                    key = None
                await answer.write(chunk)
        except (Lost, ConnectionError):
            # Aborted rather than ended in order, so that the client sees that it is incomplete.
            if request.transport is not None:
                request.transport.abort()
            return answer
        await answer.write_eof()
        return answer
