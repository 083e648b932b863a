"""One try of a request: its servers, its limits, and who is still at work on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltana.serving.router.aside import Aside
from voltana.serving.router.interrupt import Interrupt
from voltana.serving.router.leg import Leg
from voltana.serving.router.problem import Lost, Problem, broken_off, overdue
from voltana.serving.router.wire import Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from types import TracebackType

    from voltana.serving.engine import Call
    from voltana.serving.router.booking import Booking
    from voltana.serving.router.connections import Payload
    from voltana.serving.router.left import Left
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.settings import RouterTable
    from voltana.serving.router.wire import Wire

_DRAIN_S = 10.0
"""A leg aside that is not complete so long after the whole answer is given up."""

KEPT_DRAIN_S = 1.0
"""Likewise one whose answer tells what its server keeps, after its client left: an answer that
nobody read leaves a KV cache behind which nobody can have given up. One that takes longer waits for
its turn, more likely than not, and to compute it for nobody would make others wait."""


class Attempt:
    """What an engine works with to have a request answered; a ``with`` block limits its time.

    Args:
        call: The request.
        number: Of the try, from 0.
        prefill: Prefill server; None where one server serves both phases.
        choose_decode: Chooses the decode (or unified) server.
        planned: The decode server that was chosen with the prefill server; None leaves that to
            `choose_decode`, and so does an engine that sends the prefill leg before it asks.
        admit_decode: Waits for a decode server, where a router may defer; None where none does.
        booking: The try in the ledger.
        wire: HTTP client.
        headers: The client's, for the servers.
        settings: Limits.
        left_s: Time that is left for the request.

    Attributes:
        number: Of the try.
        prefill: Prefill server; None where one server serves both phases.
        headers: The client's.
        servers: The servers that it has so far.
        at_work: Those that may be at work on it.
    """

    def __init__(
        self,
        call: Call,
        number: int,
        *,
        prefill: Backend | None,
        choose_decode: Callable[[], Backend],
        planned: Backend | None = None,
        admit_decode: Callable[[], Awaitable[Backend]] | None = None,
        booking: Booking,
        wire: Wire,
        headers: Mapping[str, str],
        settings: RouterTable,
        left_s: float,
    ) -> None:
        self.call = call
        self.number = number
        self.prefill = prefill
        self.headers = headers
        self.servers: list[Backend] = [] if prefill is None else [prefill]
        self.at_work: set[Backend] = set()
        self._left: dict[Backend, Left] | None = {}
        self._decode: Backend | None = None
        self._choose_decode = choose_decode
        self._planned = planned
        self._admit_decode = admit_decode
        self._booking = booking
        self._wire = wire
        self._settings = settings
        self._scope = Interrupt()
        self._loop = asyncio.get_running_loop()
        self._last_byte_s = self._loop.time()
        self._first_token_by_s = self._last_byte_s + settings.first_token_timeout_s
        self._ends_s = self._last_byte_s + left_s
        self._is_prefilled = self._has_token = False
        self._aside: list[Aside] = []
        self._draining: set[asyncio.Task[bytes]] = set()

    # --- What an engine uses -----------------------------------------------------------------

    def decode(self, *, marks: tuple[int, ...] = ()) -> Backend:
        """The decode server, or the one for both phases; chosen at the first call.

        Args:
            marks: Numbers by which the instances' agents name this try in their reports.

        Raises:
            Problem: If there is none.
        """
        if self._decode is None:
            self._decode = backend = self._planned or self._choose_decode()
            self.servers.insert(0, backend)
            self._booking.decode(backend.name, marks)
            backend.watch(self, self._decode_lost)
            self._limit_first_token(backend)
        return self._decode

    async def admitted(self) -> None:
        """Wait until a decode server is to be asked for, where an engine does so after the prefill.

        One that asks for it before has waited already.

        Raises:
            Problem: If there is none, or time is up.
        """
        if self._decode is None and self._admit_decode is not None:
            self._planned = await self._admit_decode()

    def post(self, backend: Backend, body: Payload, *, held: bool = False) -> Leg:
        """Send a leg, to the path that the client used; an ``async with`` block.

        Args:
            backend: Where it goes.
            body: What is sent.
            held: Whether the server keeps something for the request when it has answered, so that
                it has to be told if the try fails later.
        """
        if self._decode is None:  # the prefill leg, and nobody knows yet where it is decoded
            self._planned = None  # the servers will have changed by then
            self._booking.prefill_alone()
            self._limit_first_token(backend)
        elif not self.call.stream:
            self._booking.unseen()
        url = backend.endpoint(self.call.path)
        ask = Ask(method="POST", url=url, body=body, headers=self.headers)
        return Leg(self, backend, self._wire, ask, held=held)

    def beside(self, leg: Coroutine[object, object, bytes], *, keeps: bool = False) -> Aside:
        """Run a leg beside the one that is relayed.

        If it fails before the first token, so does the try; when the answer is complete it may
        drain, so that its connection is used again.

        Args:
            leg: The leg.
            keeps: Whether its answer tells what its server keeps from then on, so that it is read
                though the try was given up, if it comes within `KEPT_DRAIN_S`.
        """
        aside = Aside(leg, self._aside_is_over, KEPT_DRAIN_S if keeps else 0.0)
        self._aside.append(aside)
        return aside

    def prefilled(self) -> None:
        """The prefill leg is complete: its server has no more work with it."""
        self._is_prefilled = True
        if self._decode is None:
            self._booking.prefilled_alone()
            return
        self._booking.prefilled()
        if not self.call.stream:
            self._limit_rest()  # the first token is there, though nobody sees it yet

    def first_token(self) -> None:
        """The decode server's first token is there: from now on silence is no failure."""
        self._has_token = True
        self._booking.fetched(seen=self.call.stream)
        self.decode().succeeded()
        self.flows()
        self._limit_rest()

    def flows(self) -> None:
        """Something of the answer has arrived."""
        self._last_byte_s = self._loop.time()

    def released(self) -> None:
        """The prefill server was told, after the end of the try, to keep nothing for it."""
        self._booking.released()

    def leave(self, backend: Backend, left: Left) -> bool:
        """Leave a connection to who tells the server to stop; false if nobody does."""
        if self._left is None or backend not in self.at_work:
            return False
        self._left[backend] = left
        return True

    def take_left(self, backend: Backend) -> Left | None:
        """What was left at a server, once."""
        return None if self._left is None else self._left.pop(backend, None)

    async def drained(self) -> None:
        """Wait for legs that tell what their servers keep, or are given up meanwhile."""
        if self._draining:
            await asyncio.wait(tuple(self._draining))

    def close_left(self) -> None:
        """Nobody tells servers to stop any more: close what was left, or is from now on."""
        left, self._left = self._left or {}, None
        for task in self._draining:
            task.cancel()
        for one in left.values():
            one.close()

    def give_up(self, problem: Problem) -> None:
        """End the try with `problem`, whatever it waits for."""
        self._scope.raise_inside(problem)

    @property
    def names(self) -> dict[str, str]:
        """Headers of the answer that name the servers."""
        names = {"X-Voltana-Decode": self.decode().name}
        if self.prefill is not None:
            names["X-Voltana-Prefill"] = self.prefill.name
        return names

    # --- Its beginning and its end -----------------------------------------------------------

    def __enter__(self) -> Attempt:
        self._scope.__enter__()
        prefill = self.prefill
        if prefill is not None:
            # Do not wait for a server that has been ejected meanwhile.
            prefill.watch(self, lambda: self._fail_before_token(_ejected(prefill)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complete = kind is None
        for backend in self.servers:
            backend.unwatch(self)
        for aside in self._aside:
            task = aside.end(_DRAIN_S if complete else 0.0)
            if task is not None and not complete:
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)
        if complete:
            self.at_work.clear()
        self._booking.finished()
        self._scope.__exit__(kind, error, trace)

    # --- What ends it early ------------------------------------------------------------------

    def broken(self, backend: Backend, lost: Lost) -> Problem:
        """What it means that a call broke off.

        A server that is gone is to blame at once; what else breaks before the first token may be
        the request's doing (see `voltana.serving.router.blame`).
        """
        late = self._has_token and backend is self._decode
        if lost.dead or late:
            backend.failed(lost.why, dead=lost.dead)
        return broken_off(backend.name, lost.why) if late else lost

    def _aside_is_over(self, task: asyncio.Task[bytes]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Problem):
            self._fail_before_token(error)
        elif error is not None:
            self._loop.call_exception_handler({"message": "a leg died", "exception": error})

    def _fail_before_token(self, problem: Problem) -> None:
        if not self._has_token:
            self._scope.raise_inside(problem)

    def _limit_first_token(self, backend: Backend) -> None:
        limit_s = self._settings.first_token_timeout_s
        # Once the prompt is computed, or where one server does both, a whole answer does not tell
        # when it began.
        invisible = not self.call.stream and (self.prefill is None or self._is_prefilled)
        if invisible or self._first_token_by_s >= self._ends_s:
            self._limit_rest()
            return
        left_s = self._first_token_by_s - self._loop.time()
        self._scope.due(left_s, lambda: _no_token(backend, limit_s))

    def _limit_rest(self) -> None:
        limit_s = self._settings.timeout_s
        self._scope.due(self._ends_s - self._loop.time(), lambda: overdue(limit_s))

    def _decode_lost(self) -> None:
        backend = self._decode
        if backend is None or self._scope.over:
            return
        if not self._has_token:
            self._scope.raise_inside(_ejected(backend))
            return
        # A stream that still flows proves the server alive, whatever its health checks say.
        silent_s = self._loop.time() - self._last_byte_s
        if silent_s >= self._settings.health_timeout_s:
            self._scope.raise_inside(broken_off(backend.name, backend.why))
        elif not backend.healthy:
            self._loop.call_later(self._settings.health_timeout_s - silent_s, self._decode_lost)


def _no_token(backend: Backend, limit_s: float) -> Problem:
    late = TimeoutError(f"no token after {limit_s:g} s (first_token_timeout_s)")
    return Lost(backend.name, late)


def _ejected(backend: Backend) -> Problem:
    return Lost(backend.name, ConnectionError(backend.why or "it was ejected"), dead=True)
