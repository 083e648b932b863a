"""One try of a request on one pair of servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltana.serving.router.call import Bootstrap
from voltana.serving.router.interrupt import Interrupt
from voltana.serving.router.leg import TRANSPORT_ERRORS, error_in, failed, refused
from voltana.serving.router.logprobs import StreamMerge, merge_answers
from voltana.serving.router.prefill_leg import PrefillLeg
from voltana.serving.router.problem import Problem, broken_off, overdue, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import aiohttp

    from voltana.serving.router.answer import Answer
    from voltana.serving.router.call import Call
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.settings import RouterTable

_TAIL = 32
_DONE = b"[DONE]"


class Attempt:
    """Both legs at once; the decode leg's answer is the client's.

    Args:
        call: The request.
        number: Of the attempt, from 0.
        prefill: Prefill server; None where one server serves both phases.
        decode: Decode or unified server.
        session: HTTP client.
        settings: Limits.
        left_s: Time that is left for the request.
        prefilled: Called when the prefill leg is complete.

    Attributes:
        bootstrap: Where the legs meet.
        legs: The servers of both legs.
        open_legs: After the end, servers that may still be at work on it.
    """

    def __init__(
        self,
        call: Call,
        number: int,
        *,
        prefill: Backend | None,
        decode: Backend,
        session: aiohttp.ClientSession,
        settings: RouterTable,
        left_s: float,
        prefilled: Callable[[], None],
    ) -> None:
        self.call = call
        self._number = number
        self.decode = decode
        self.legs = (decode,) if prefill is None else (decode, prefill)
        self.bootstrap: Bootstrap | None = None
        self.open_legs: tuple[Backend, ...] = ()
        self._session = session
        self._settings = settings
        self._left_s = left_s
        self._scope = Interrupt()
        self._loop = asyncio.get_running_loop()
        self._began_s = self._last_byte_s = self._loop.time()
        self._has_token = False
        self._decode_open = True
        self._prefill: PrefillLeg | None = None
        if prefill is not None:
            self.bootstrap = Bootstrap.draw(
                prefill.transfer_host, prefill.bootstrap_port, call.batch
            )
            self._prefill = PrefillLeg(
                prefill, call, session, done=self._prefill_done, failed=self._fail_before_token
            )
        self._prefilled = prefilled

    @property
    def rids(self) -> Sequence[str]:
        """Ids under which the servers know it."""
        return self.call.leg_rids(self._number)

    def give_up(self, problem: Problem) -> None:
        """End the attempt from outside."""
        self._scope.raise_inside(problem)

    async def run(self, headers: Mapping[str, str], answer: Answer) -> None:
        """Send both legs and pass the answer on.

        Raises:
            Problem: If there is none; `answer` tells whether the client has seen a part of it.
        """
        body = self.call.leg_body(self._number, self.bootstrap)
        complete = False
        self._watch()
        try:
            with self._scope:
                self._limit_first_token()
                if self._prefill is not None:
                    self._prefill.start(body, headers)
                if self.call.stream:
                    await self._stream(body, headers, answer)
                else:
                    await self._whole(body, headers, answer)
            complete = True
        finally:
            self._end(complete=complete)

    def _end(self, *, complete: bool) -> None:
        self.decode.unwatch(self)
        legs = [self.decode] if self._decode_open and not complete else []
        if self._prefill is not None:
            self._prefill.backend.unwatch(self)
            if self._prefill.end(complete=complete) and not complete:
                legs.append(self._prefill.backend)
        self.open_legs = tuple(legs)

    async def _whole(self, body: bytes, headers: Mapping[str, str], answer: Answer) -> None:
        backend, call = self.decode, self.call
        try:
            async with self._session.post(
                backend.endpoint(call.path), data=body, headers=headers
            ) as reply:
                content = await reply.read()
                status, kind = reply.status, reply.headers.get("Content-Type", "")
        except TRANSPORT_ERRORS as error:
            raise failed(backend, error) from error
        self._decode_open = False
        if status != 200:
            raise refused(backend, status, content, kind)
        self._first_token()
        if call.logprobs and self._prefill is not None:
            content = merge_answers(await self._prefill.answer(), content)
        answer.whole(content, kind, self._names())

    async def _stream(self, body: bytes, headers: Mapping[str, str], answer: Answer) -> None:
        backend = self.decode
        try:
            async with self._session.post(
                backend.endpoint(self.call.path), data=body, headers=headers
            ) as reply:
                if reply.status != 200:
                    content = await reply.read()
                    self._decode_open = False
                    kind = reply.headers.get("Content-Type", "")
                    raise refused(backend, reply.status, content, kind)
                begin = await self._first_event(reply.content)
                await self._relay(begin, reply, answer)
        except TRANSPORT_ERRORS as error:
            if self._has_token:
                backend.failed(str(error) or type(error).__name__)
                raise broken_off(backend.name, error) from error
            raise failed(backend, error) from error

    async def _first_event(self, content: aiohttp.StreamReader) -> bytes:
        """The first event: a server that fails has sent 200 all the same by then."""
        begin = b""
        while b"\n\n" not in begin:
            chunk = await content.readany()
            if not chunk:
                raise failed(self.decode, ConnectionError("the stream ended without an event"))
            begin += chunk
        problem = error_in(self.decode, begin.split(b"\n\n", 1)[0])
        if problem is not None:
            raise problem
        return begin

    async def _relay(self, chunk: bytes, reply: aiohttp.ClientResponse, answer: Answer) -> None:
        self._first_token()
        merge = None
        if self.call.logprobs and self._prefill is not None:
            merge = StreamMerge(await self._prefill.answer())
        kind = reply.headers.get("Content-Type", "text/event-stream")
        await answer.begin(kind, self._names())
        tail = b""
        while chunk:
            self._last_byte_s = self._loop.time()
            tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (tail + chunk)[-_TAIL:]
            await answer.write(chunk if merge is None else merge.feed(chunk))
            chunk = await reply.content.readany()
        self._decode_open = False
        if merge is not None:
            await answer.write(merge.close())
        if _DONE not in tail:
            raise broken_off(self.decode.name, "the stream ended without [DONE]")
        await answer.end()

    def _first_token(self) -> None:
        self._has_token = True
        self.decode.succeeded()
        self._limit_rest()

    def _prefill_done(self) -> None:
        self._prefilled()
        if not self.call.stream:
            self._limit_rest()  # the first token is there, though nobody sees it yet

    def _limit_first_token(self) -> None:
        limit_s = self._settings.first_token_timeout_s
        # A whole answer of one server for both phases does not tell when it began.
        invisible = self._prefill is None and not self.call.stream
        if invisible or limit_s >= self._left_s:
            self._limit_rest()
            return
        late = TimeoutError(f"no token after {limit_s:g} s (first_token_timeout_s)")
        self._scope.due(limit_s, unreachable(self.decode.name, late))

    def _limit_rest(self) -> None:
        gone_s = self._loop.time() - self._began_s
        self._scope.due(self._left_s - gone_s, overdue(self._settings.timeout_s))

    def _fail_before_token(self, problem: Problem) -> None:
        if not self._has_token:
            self._scope.raise_inside(problem)

    def _watch(self) -> None:
        """Do not wait for a server that has been ejected meanwhile."""
        self.decode.watch(self, self._decode_lost)
        if self._prefill is not None:
            backend = self._prefill.backend
            backend.watch(self, lambda: self._fail_before_token(_ejected(backend)))

    def _decode_lost(self) -> None:
        if self._scope.over:
            return
        if not self._has_token:
            self._scope.raise_inside(_ejected(self.decode))
            return
        # A stream that still flows proves the server alive, whatever its health checks say.
        silent_s = self._loop.time() - self._last_byte_s
        if silent_s >= self._settings.health_timeout_s:
            self._scope.raise_inside(broken_off(self.decode.name, self.decode.why))
        elif not self.decode.healthy:
            self._loop.call_later(self._settings.health_timeout_s - silent_s, self._decode_lost)

    def _names(self) -> dict[str, str]:
        names = {"X-Voltana-Decode": self.decode.name}
        if self._prefill is not None:
            names["X-Voltana-Prefill"] = self._prefill.backend.name
        return names


def _ejected(backend: Backend) -> Problem:
    return unreachable(backend.name, ConnectionError(backend.why or "it was ejected"))
