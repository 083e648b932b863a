"""SGLang as the router knows it: both legs at once, which meet in a room.

Prefill and decode server get the same body with the same rooms, and the decode server fetches the
KV cache from the bootstrap server that the body names. The answer is the decode server's; the
prefill server's is drained, and its failure is what matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from voltana.serving.router.events import EVENT_END, Events
from voltana.serving.router.problem import Problem, refused
from voltana.serving.router.relay import relay
from voltana.serving.router.renaming import Renamed
from voltana_sglang.dialect.call import Bootstrap, SglangCall, parse_call
from voltana_sglang.dialect.errors import ABORTED, error_in, error_in_whole
from voltana_sglang.dialect.loads import LOADS_PATH, LOADS_QUERY, listed, state_of
from voltana_sglang.dialect.logprobs import StreamMerge
from voltana_sglang.dialect.merging import Merging, check_stream

if TYPE_CHECKING:
    from voltana.serving.router.answer import Answer
    from voltana.serving.router.aside import Aside
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.connections import Payload
    from voltana.serving.router.leg import Leg
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.relay import Through
    from voltana.serving.router.wire import Line
    from voltana.values import InstanceState
    from voltana_sglang.dialect.settings import SglangRouterTable


class SglangEngine:
    """A `voltana.serving.engine.Engine`.

    Args:
        settings: Where decode servers reach prefill servers.
    """

    def __init__(self, settings: SglangRouterTable) -> None:
        self._doors = {b.name: (b.transfer_host, b.bootstrap_port) for b in settings.backends}
        self._nesting = settings.limits.nesting
        self._tenant_key = settings.tenant_key
        self._merging = Merging()

    def understand(self, path: str, raw: bytes | bytearray) -> SglangCall:
        """Read a request."""
        return parse_call(path, raw, self._nesting, self._tenant_key)

    async def attempt(self, call: SglangCall, attempt: Attempt, answer: Answer) -> None:
        """Send both legs, and pass the decode server's answer on."""
        meeting = self._meeting(call, attempt.prefill)
        decode = attempt.decode(marks=() if meeting is None else meeting.rooms)
        body = call.leg_body(attempt.number, meeting)
        prefill = None
        if attempt.prefill is not None:
            prefill = attempt.beside(_prefill(call, attempt, attempt.prefill, body))
        # Of a prefill server's answer only log-probabilities are of use.
        known = prefill if call.logprobs else None
        async with attempt.post(decode, body) as leg:
            if call.stream:
                await _stream(call, attempt, leg, answer, known)
            else:
                content = await leg.read()
                attempt.first_token()
                if known is not None:
                    content = await self._merging.merged(await known.content(), content)
                answer.whole(call.named(content), leg.kind, attempt.names)

    async def load(self, line: Line) -> InstanceState:
        """What ``/v1/loads`` says."""
        reply = await line.ask("GET", LOADS_PATH + LOADS_QUERY)
        if not reply.ok:
            raise refused(line.backend.name, reply.status, reply.body, reply.kind)
        return state_of(listed(reply.value()), line.backend.role)

    async def abort(self, line: Line, call: SglangCall, number: int) -> int:
        """Abort each prompt by its id."""
        status = 0
        for rid in call.leg_rids(number):
            reply = await line.ask("POST", "/abort_request", orjson.dumps({"rid": rid}))
            status = reply.status
        return status

    def _meeting(self, call: SglangCall, prefill: Backend | None) -> Bootstrap | None:
        """Where the legs meet; None where one server serves both phases."""
        if prefill is None:
            return None
        if call.samples > 1:
            # Their requests would share one room, in which the servers wait for each other for
            # ever.
            raise Problem(
                400,
                f"n = {call.samples} is not allowed here: must be 1, for SGLang's prefill and "
                "decode servers give one answer to a prompt. Send the prompt several times.",
                "unsupported_n",
            )
        host, port = self._doors[prefill.name]
        return Bootstrap.draw(host, port, call.batch)


async def _stream(
    call: SglangCall,
    attempt: Attempt,
    leg: Leg,
    answer: Answer,
    prefill: Aside | None,
) -> None:
    begin = await leg.first_event()
    # A server that fails has sent status 200 all the same by then. A client's own mistake is
    # passed on in the stream, as the server wrote it.
    problem = error_in(leg.backend.name, begin.split(EVENT_END, 1)[0])
    if problem is not None and problem.retryable:
        try:
            raise problem
        finally:
            del problem  # it would hold itself by this frame
    attempt.first_token()
    through: Through | None = None
    if prefill is not None:
        content = await prefill.content()
        check_stream(content)
        through = StreamMerge(content)
    if call.rids:
        through = Renamed(call.named, through)
    await relay(attempt, leg, begin, answer, through)


async def _prefill(call: SglangCall, attempt: Attempt, backend: Backend, body: Payload) -> bytes:
    """The prefill leg; its answer as far as anybody wants it.

    An error in it, wherever it stands, means that there is no KV cache, whatever the decode server
    makes of it meanwhile.
    """
    async with attempt.post(backend, body) as leg:
        if not call.stream:
            content = await leg.read()
            _give_up(attempt, error_in_whole(backend.name, content))
        else:
            chunk, events = await leg.first_event(), Events()
            kept = bytearray(chunk if call.logprobs else b"")
            while chunk:
                for event in events.feed(chunk).split(EVENT_END):
                    _give_up(attempt, error_in(backend.name, event))
                leg.bounded(len(kept) + events.waiting)
                chunk = await leg.chunk()
                kept += chunk if call.logprobs else b""
            content = bytes(kept)
    backend.succeeded()
    attempt.prefilled()
    return content


def _give_up(attempt: Attempt, problem: Problem | None) -> None:
    if problem is None:
        return
    if problem.code != ABORTED:  # what somebody asked for ends both legs by itself
        attempt.give_up(problem)
    try:
        raise problem
    finally:
        del problem  # it would hold itself by this frame
