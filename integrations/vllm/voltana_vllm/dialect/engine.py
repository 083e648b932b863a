"""vLLM as the router knows it: one leg after the other, the decode server chosen late.

The prefill server computes one token, keeps the KV cache, and answers with what a decode server
needs to fetch it. That is chosen only then. The answer is the decode server's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from voltana.serving.router.pool import Backend
from voltana.serving.router.problem import Lost, Problem, refused
from voltana.serving.router.relay import relay
from voltana.serving.router.renaming import Renamed
from voltana.values import Role
from voltana_vllm.dialect.call import VllmCall, clients_id, parse_call, under
from voltana_vllm.dialect.errors import error_in
from voltana_vllm.dialect.handed_over import handed_over
from voltana_vllm.dialect.loads import LOADS_PATH, state_of
from voltana_vllm.dialect.releasing import Releasing
from voltana_vllm.dialect.unpaired import check_pair

if TYPE_CHECKING:
    from voltana.serving.router.answer import Answer
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.leg import Leg
    from voltana.serving.router.wire import Line
    from voltana.values import InstanceState
    from voltana_vllm.dialect.settings import VllmRouterTable

_CLIENTS, _SERVERS = 400, 500
"""Statuses between them lay the blame on whoever sent the request."""


class VllmEngine:
    """A `voltana.serving.engine.Engine`.

    Args:
        settings: The servers, and limits.
    """

    binds_late = True

    def __init__(self, settings: VllmRouterTable) -> None:
        self.lease_s = settings.kv_lease_s
        self._nesting = settings.limits.nesting
        self._tenant_key = settings.tenant_key
        self._releasing = Releasing(
            Backend(table, settings) for table in settings.backends if table.role == "decode"
        )

    def understand(self, path: str, raw: bytes | bytearray) -> VllmCall:
        """Read a request."""
        return parse_call(path, raw, self._nesting, self._tenant_key)

    async def attempt(self, call: VllmCall, attempt: Attempt, answer: Answer) -> None:
        """Send the legs one after the other, and pass the decode server's answer on."""
        number, clients = attempt.number, clients_id(attempt.headers)
        attempt.headers = under(call.name(number), attempt.headers)
        body = call.body()
        if attempt.prefill is not None:
            check_pair(call)
            # Its answer says what is kept; it is read though the client may have left by then.
            await attempt.beside(_prefilled(call, attempt, attempt.prefill), keeps=True).content()
            attempt.prefilled()
            await attempt.admitted()
            body = call.body(kv_transfer_params=call.held[number])
        rename = partial(call.named, attempt=number, clients=clients)
        leg = attempt.post(attempt.decode(marks=call.marks(number)), body)
        try:
            await leg.__aenter__()
        except Lost as lost:
            if not lost.dead:  # it may be fetching the KV cache
                call.held.pop(number, None)
            raise
        except Problem as problem:
            call.held.pop(number, None)
            _doubt(call, attempt, problem)
            raise
        except BaseException:
            call.held.pop(number, None)
            raise
        call.held.pop(number, None)
        _blame(call, attempt)
        try:
            if call.stream:
                await _stream(attempt, leg, answer, Renamed(rename) if clients else None)
            else:
                content = await leg.read()
                attempt.first_token()
                answer.whole(rename(content), leg.kind, attempt.names)
        finally:
            await leg.__aexit__(None, None, None)

    async def load(self, line: Line) -> InstanceState:
        """What ``/metrics`` says."""
        reply = await line.ask("GET", LOADS_PATH)
        if not reply.ok:
            raise refused(line.backend.name, reply.status, reply.body, reply.kind)
        return state_of(reply.body.decode("utf-8", "replace"))

    async def abort(self, line: Line, call: VllmCall, number: int) -> int:
        """Have a KV cache given up that nobody has begun to fetch.

        A closed connection ends a leg that is at work: vLLM watches for it. A KV cache that a
        decode server may be fetching is left to that and to the lease: given up meanwhile, it
        could be overwritten while it is read.
        """
        params = None
        if line.backend.role is Role.PREFILL:
            params = call.held.pop(number, None)
        if params is None:
            return 0
        return await self._releasing.release(line, params)


def _doubt(call: VllmCall, attempt: Attempt, problem: Problem) -> None:
    """Try a pair with another prefill server, once, where a decode server refuses a request.

    Whether the client is wrong or what was handed over, nobody says; a client's own mistake is
    refused there as well, and then told as it is.
    """
    if attempt.prefill is None or not _CLIENTS <= problem.status < _SERVERS or problem.retryable:
        return
    if call.doubted is None:
        call.doubted = attempt.prefill
        problem.retryable, problem.backend = True, attempt.prefill.name


def _blame(call: VllmCall, attempt: Attempt) -> None:
    """What a prefill server handed over is taken; what another did for that request was not."""
    doubted, call.doubted = call.doubted, None
    if attempt.prefill is not None:
        attempt.prefill.succeeded()
    if doubted is not None and doubted is not attempt.prefill:
        doubted.failed("a decode server refused what it hands over")


async def _prefilled(call: VllmCall, attempt: Attempt, prefill: Backend) -> bytes:
    """The prefill leg; notes in `call.held` what a decode server needs to fetch the KV cache."""
    async with attempt.post(prefill, call.prefill_body(), held=True) as leg:
        content = await leg.read()
    params = handed_over(content)
    if params is None:
        raise Problem(
            502,
            f"backend {prefill.name!r} computed the prompt and hands over no KV cache that can be "
            "passed on: must be started with --kv-transfer-config.",
            "no_kv_transfer",
            retryable=True,
            backend=prefill.name,
        )
    call.held[attempt.number] = params
    return content


async def _stream(attempt: Attempt, leg: Leg, answer: Answer, through: Renamed | None) -> None:
    begin = await leg.first_event()
    # A server that fails has sent status 200 all the same by then. A client's own mistake is
    # passed on in the stream, as the server wrote it.
    problem = error_in(leg.backend.name, begin)
    if problem is not None and problem.retryable:
        try:
            raise problem
        finally:
            del problem  # it would hold itself by this frame
    attempt.first_token()
    await relay(attempt, leg, begin, answer, through)
