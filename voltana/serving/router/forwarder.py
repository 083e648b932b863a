"""The way of a request: understood, tried on servers, answered exactly once.

``serve`` admits a request and turns whatever ends it into its one answer; ``_tries`` repeats it as
long as the client has seen nothing; ``_try`` gives one try its servers and hands it to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from voltana.serving.engine import binds_late, lease_of
from voltana.serving.router.aborts import Aborts
from voltana.serving.router.answer import Answer, ClientGoneError, refuse
from voltana.serving.router.attempt import Attempt
from voltana.serving.router.blame import Blame, RetryBudget
from voltana.serving.router.booking import Booking
from voltana.serving.router.energy_split import Tally
from voltana.serving.router.intake import HeldBytes
from voltana.serving.router.prefix_header import told_prefix
from voltana.serving.router.problem import Problem, overdue
from voltana.serving.router.wire import forwarded_headers
from voltana.values import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from aiohttp import web

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.engine import Call, Engine
    from voltana.serving.router.chooser import Chooser
    from voltana.serving.router.energy_split import EnergySplit
    from voltana.serving.router.holding import Holding
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.metrics import Metrics
    from voltana.serving.router.pool import Backend, Pool
    from voltana.serving.router.prompt_length import PromptLength
    from voltana.serving.router.public import Public
    from voltana.serving.router.settings import RouterTable
    from voltana.serving.router.tenants import Tenants
    from voltana.serving.router.wire import Wire

BACK_OFF_S = 0.05


class Forwarder:
    """Answers requests.

    Args:
        settings: Limits.
        engine: Answers them.
        public: What stands between clients and them.
        pool: The servers.
        keys: The servers' keys.
        wire: HTTP client.
        chooser: Chooses servers.
        holding: Where requests wait that routers defer.
        ledger: What is in flight.
        lengths: Estimates prompts.
        metrics: Counters.
        tenants: Who requests are counted for.
        energy: What they have used.
        time: Time source.
    """

    def __init__(
        self,
        settings: RouterTable,
        engine: Engine[Any],
        *,
        public: Public,
        pool: Pool,
        keys: Keys,
        wire: Wire,
        chooser: Chooser,
        holding: Holding,
        ledger: Ledger,
        lengths: PromptLength,
        metrics: Metrics,
        tenants: Tenants,
        energy: EnergySplit,
        time: TimeSource,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._public = public
        self._pool = pool
        self._gate = public.gate
        self._wire = wire
        self._chooser = chooser
        self._holding = holding
        self._late_binding = binds_late(engine)
        self._lease_s = lease_of(engine)
        self._ledger = ledger
        self._lengths = lengths
        self._metrics = metrics
        self._tenants = tenants
        self._energy = energy
        self._time = time
        self._arrivals = 0
        self._attempts: dict[str, Attempt] = {}
        self._given_up: Problem | None = None
        self._aborts = Aborts(engine, wire, keys)
        self._log = structlog.get_logger("voltana.router")
        self._arriving = 0
        self._budget = RetryBudget(settings.limits.retry_share, time.now_s)

    @property
    def open(self) -> int:
        """Requests that are open, those included whose bodies are still being read."""
        return self._gate.open + self._arriving

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._gate.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._gate.draining = draining

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; see `voltana.serving.router.app` for its paths."""
        try:
            self._gate.admit()
        except Problem as problem:  # where there is too much, most requests get no further
            self._metrics.ended(request.path, problem.code)
            return refuse(problem)
        began_s = self._time.now_s()
        answer = Answer(
            request,
            lambda: self._metrics.first_token(self._time.now_s() - began_s),
            self._settings.limits.unread_s,
        )
        outcome = "cancelled"
        try:
            with HeldBytes(self._public.intake.budget) as held:
                await self._served(request, answer, held, began_s)
            outcome = "completed"
        except Problem as problem:
            outcome = problem.code
            with contextlib.suppress(ClientGoneError):
                await answer.fail(problem)
        except ClientGoneError:
            pass
        finally:
            self._metrics.ended(request.path, outcome)
        if answer.response is None:
            raise ConnectionResetError("the client has closed the connection")
        return answer.response

    async def _served(
        self, request: web.BaseRequest, answer: Answer, held: HeldBytes, began_s: float
    ) -> None:
        """A request that is let in is counted, and read, before it is tried."""
        public, client = self._public, request.remote or ""
        self._arriving += 1
        try:
            raw = await public.intake.body(request, held)
        finally:
            self._arriving -= 1
        public.doors.complete(request)
        try:
            self._gate.enter(client)
            call = await public.reader.understand(request.path, raw)
            del raw
            if header := self._settings.tenant_header:
                call.tenant = request.headers.get(header, "")
            call.tenant = self._tenants.named(call.tenant)
            await self._tries(call, request.headers, answer, began_s)
        finally:
            self._gate.leave(client)

    def give_up_all(self, problem: Problem) -> None:
        """End all open requests with an error, and do not try them again."""
        self._given_up = problem
        self._holding.end_all(problem)
        for attempt in tuple(self._attempts.values()):
            attempt.give_up(problem)

    async def abort(self, rid: str, key: str | None) -> bool:
        """Abort the request that a client knows as `rid`; whether it was in flight here.

        Args:
            rid: Its id.
            key: The client's ``Authorization``, which is passed on.

        Raises:
            Problem: If a server does not take that key for it.
        """
        found = [a for a in tuple(self._attempts.values()) if a.call.is_known_as(rid)]
        for attempt in found:
            await self._aborts.on_behalf(attempt, key)
        return bool(found)

    async def close(self) -> None:
        """Wait for aborts that are under way."""
        await self._aborts.close()

    async def _tries(
        self, call: Call, headers: Mapping[str, str], answer: Answer, began_s: float
    ) -> None:
        """Repeat the request elsewhere as long as the client has seen nothing of it."""
        plan, blame = self._plan(call, headers, began_s), Blame()
        headers = forwarded_headers(headers)
        self._energy.began(call.tenant, plan.prompt_tokens)
        self._budget.request()
        avoid: set[str] = set()
        for number in range(self._settings.attempts):
            attempt = await self._attempt(call, plan, number, headers=headers, avoid=avoid)
            try:
                await self._try(attempt, f"{plan.request_id}-{number}", answer)
            except Problem as problem:
                last = number + 1 == self._settings.attempts
                if answer.begun or not problem.retryable or not problem.backend or last:
                    raise
                backend = self._pool.named(problem.backend)
                blame.suspect(backend, problem)
                poison = blame.poison(self._pool.of(backend.role))
                if poison or not self._budget.allows(problem, number):
                    raise
                self._metrics.retried(problem.backend)
                self._log.warning(
                    "trying again", rid=call.rid, backend=problem.backend, why=problem.message
                )
                await asyncio.sleep(BACK_OFF_S * 2**number if problem.backend in avoid else 0)
                avoid.add(problem.backend)
            else:
                blame.answered()
                break
        if not call.stream and answer.response is not None:
            self._lengths.learn(call, getattr(answer.response, "body", b"") or b"")

    async def _try(self, attempt: Attempt, key: str, answer: Answer) -> None:
        self._attempts[key] = attempt
        try:
            with attempt:
                await self._engine.attempt(attempt.call, attempt, answer)
        finally:
            del self._attempts[key]
            self._aborts.begin(attempt)
            self._holding.wake()

    def _plan(self, call: Call, headers: Mapping[str, str], began_s: float) -> Request:
        self._arrivals += 1
        return Request(
            request_id=self._arrivals,
            arrived_at_s=began_s,
            prompt_tokens=self._lengths.estimate(call),
            slack_s=math.inf if self._holding.defers else 0.0,
            prefix=told_prefix(headers),
        )

    async def _attempt(
        self,
        call: Call,
        plan: Request,
        number: int,
        *,
        headers: Mapping[str, str],
        avoid: Set[str],
    ) -> Attempt:
        """The next try, with its prefill server and the time that is left for it."""
        if self._given_up is not None:
            raise self._given_up
        left_s = self._left_s(plan)
        if left_s <= 0:
            raise overdue(self._settings.timeout_s)
        booking = Booking(
            self._ledger,
            self._time,
            key=f"{plan.request_id}-{number}",
            requests=call.batch or 1,
            prompt_tokens=plan.prompt_tokens,
            tally=Tally(
                self._energy,
                call.tenant,
                requests=call.batch or 1,
                prompt_tokens=plan.prompt_tokens,
            ),
            lease_s=self._lease_s,
        )
        prefill, planned = await self._servers(plan, number, booking, avoid, left_s)
        return Attempt(
            call,
            number,
            prefill=prefill,
            choose_decode=lambda: self._chooser.decode(plan, avoid),
            planned=planned,
            admit_decode=partial(self._late, plan, booking) if self._may_hold(number) else None,
            booking=booking,
            wire=self._wire,
            headers=headers,
            settings=self._settings,
            left_s=self._left_s(plan),
        )

    async def _servers(
        self, plan: Request, number: int, booking: Booking, avoid: Set[str], left_s: float
    ) -> tuple[Backend | None, Backend | None]:
        """The prefill server, and the decode server where it is chosen with it.

        It waits for both where one of their routers defers it.
        """
        if self._late_binding or not self._may_hold(number):
            prefill = self._chooser.prefill(plan, avoid)
            booking.prefilled_by(prefill)
            return prefill, None
        try:
            return await self._holding.pair(plan, booking.planned, left_s)
        except BaseException:
            booking.finished()  # it may have been chosen at the moment at which its client left
            self._holding.wake()
            raise

    def _may_hold(self, number: int) -> bool:
        """Whether a try may have to wait; later ones have waited already."""
        return self._holding.defers and not number

    async def _late(self, plan: Request, booking: Booking) -> Backend:
        """The decode server of a request whose prompt is computed."""
        return await self._holding.late(plan, booking.planned_late, self._left_s(plan))

    def _left_s(self, plan: Request) -> float:
        return self._settings.timeout_s - (self._time.now_s() - plan.arrived_at_s)
