"""Takes a client's request, tries it on servers, and answers exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from voltana.serving.router.aborts import Aborts
from voltana.serving.router.answer import Answer, ClientGoneError
from voltana.serving.router.attempt import Attempt
from voltana.serving.router.call import parse_call
from voltana.serving.router.ledger import Entry
from voltana.serving.router.leg import forwarded_headers
from voltana.serving.router.problem import Problem, overdue
from voltana.values import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp
    from aiohttp import web

    from voltana.ports import TimeSource
    from voltana.serving.router.call import Call
    from voltana.serving.router.chooser import Chooser
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.ledger import Ledger
    from voltana.serving.router.metrics import Metrics
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.prompt_length import PromptLength
    from voltana.serving.router.settings import RouterTable

BACK_OFF_S = 0.05


class Forwarder:
    """The way of every request.

    Args:
        settings: Limits.
        keys: The servers' keys.
        session: HTTP client.
        chooser: Chooses servers.
        ledger: What is in flight.
        lengths: Estimates prompts.
        metrics: Counters.
        time: Time source.

    Attributes:
        draining: New requests are refused.
        open: Requests that are open.
    """

    def __init__(
        self,
        settings: RouterTable,
        *,
        keys: Keys,
        session: aiohttp.ClientSession,
        chooser: Chooser,
        ledger: Ledger,
        lengths: PromptLength,
        metrics: Metrics,
        time: TimeSource,
    ) -> None:
        self._settings = settings
        self._session = session
        self._chooser = chooser
        self._ledger = ledger
        self._lengths = lengths
        self._metrics = metrics
        self._time = time
        self._arrivals = 0
        self._attempts: dict[str, Attempt] = {}
        self._given_up: Problem | None = None
        self._aborts = Aborts(session, keys.for_admin())
        self._log = structlog.get_logger("voltana.router")
        self.draining = False
        self.open = 0

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; see `voltana.serving.router.app` for its paths."""
        began_s = self._time.now_s()
        answer = Answer(request, lambda: self._metrics.first_token(self._time.now_s() - began_s))
        outcome = "cancelled"
        self.open += 1
        try:
            await self._admitted(request, answer, began_s)
            outcome = "completed"
        except Problem as problem:
            outcome = problem.code
            with contextlib.suppress(ClientGoneError):
                await answer.fail(problem)
        except ClientGoneError:
            pass
        finally:
            self.open -= 1
            self._metrics.ended(request.path, outcome)
        if answer.response is None:
            raise ConnectionResetError("the client has closed the connection")
        return answer.response

    def give_up_all(self, problem: Problem) -> None:
        """End all open requests with an error, and do not try them again."""
        self._given_up = problem
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
            await self._aborts.both_legs(attempt, key)
        return bool(found)

    async def close(self) -> None:
        """Wait for aborts that are under way."""
        await self._aborts.close()

    async def _admitted(self, request: web.BaseRequest, answer: Answer, began_s: float) -> None:
        if self.draining:
            raise Problem(
                503,
                "this router is shutting down. Send the request to another one.",
                "shutting_down",
                retry_after_s=1.0,
            )
        if self.open > self._settings.max_in_flight:
            raise Problem(
                503,
                f"{self._settings.max_in_flight} requests are open, the limit of this router "
                "(max_in_flight). Try again later.",
                "overloaded",
                retry_after_s=1.0,
            )
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                raw = await request.read()
        except TimeoutError:
            raise overdue(self._settings.timeout_s) from None
        call = parse_call(request.path, raw)
        await self._tries(call, forwarded_headers(request.headers), answer, began_s)

    async def _tries(
        self, call: Call, headers: Mapping[str, str], answer: Answer, began_s: float
    ) -> None:
        """Repeat the request elsewhere as long as the client has seen nothing of it."""
        plan = self._plan(call, began_s)
        avoid: set[str] = set()
        for number in range(self._settings.attempts):
            try:
                await self._try(call, plan, number, headers=headers, answer=answer, avoid=avoid)
            except Problem as problem:
                last = number + 1 == self._settings.attempts
                if answer.begun or not problem.retryable or not problem.backend or last:
                    raise
                self._metrics.retried(problem.backend)
                self._log.warning(
                    "trying again", rid=call.rid, backend=problem.backend, why=problem.message
                )
                await asyncio.sleep(BACK_OFF_S * 2**number if problem.backend in avoid else 0)
                avoid.add(problem.backend)
            else:
                return

    async def _try(
        self,
        call: Call,
        plan: Request,
        number: int,
        *,
        headers: Mapping[str, str],
        answer: Answer,
        avoid: set[str],
    ) -> None:
        if self._given_up is not None:
            raise self._given_up
        left_s = self._settings.timeout_s - (self._time.now_s() - plan.arrived_at_s)
        if left_s <= 0:
            raise overdue(self._settings.timeout_s)
        prefill, decode = self._chooser.choose(plan, avoid)
        if prefill is not None and call.samples > 1:
            raise _one_answer_only(call.samples)
        key = f"{plan.request_id}-{number}"
        attempt = Attempt(
            call,
            number,
            prefill=prefill,
            decode=decode,
            session=self._session,
            settings=self._settings,
            left_s=left_s,
            prefilled=lambda: self._ledger.prefilled(key, self._time.now_s()),
        )
        self._ledger.book(self._entry(key, attempt, plan, prefill))
        self._attempts[key] = attempt
        try:
            await attempt.run(headers, answer)
        finally:
            del self._attempts[key]
            self._ledger.finished(key)
            self._aborts.begin(attempt, headers)
        response = answer.response
        if not call.stream and response is not None:
            self._lengths.learn(call, getattr(response, "body", b"") or b"")

    def _plan(self, call: Call, began_s: float) -> Request:
        self._arrivals += 1
        return Request(
            request_id=self._arrivals,
            arrived_at_s=began_s,
            prompt_tokens=self._lengths.estimate(call),
        )

    def _entry(self, key: str, attempt: Attempt, plan: Request, prefill: Backend | None) -> Entry:
        return Entry(
            rid=key,
            prefill=None if prefill is None else prefill.name,
            decode=attempt.decode.name,
            requests=attempt.call.batch or 1,
            prompt_tokens=plan.prompt_tokens,
            sent_s=self._time.now_s(),
            rooms=() if attempt.bootstrap is None else attempt.bootstrap.rooms,
        )


def _one_answer_only(samples: int) -> Problem:
    # Their requests would share one room, in which the servers wait for each other for ever.
    return Problem(
        400,
        f"n = {samples} is not allowed here: must be 1, for SGLang's prefill and decode servers "
        "give one answer to a prompt. Send the prompt several times.",
        "unsupported_n",
    )
