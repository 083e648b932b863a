"""Requests that wait before they are sent to servers: the core's holding queue, awaited.

There are two lines: one for requests before their prefill, and one for those that an engine which
chooses late has had computed, before their decode. A request leaves its line with its client.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from voltana.cluster.admission import decode_slack_s, prefill_slack_s
from voltana.cluster.holding import LATE_S, HoldingQueue
from voltana.serving.metric_families import family
from voltana.serving.router import metrics_declared as told
from voltana.serving.router.problem import Problem, overdue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from voltana.cluster import admission
    from voltana.ports import TimeSource
    from voltana.serving.router.chooser import Chooser, Pair
    from voltana.serving.router.pool import Backend
    from voltana.values import Candidate, Deferral, IntendedDemand, Request

_T = TypeVar("_T")


class Line(Generic[_T]):
    """One line.

    Args:
        choose: Chooses servers, or defers; what it raises is the request's own end.
        slack_s: How long a request may be held from now on, behind those that wait.
        time: Time source.
        late_s: How long those may wait that are late in any case, see `HoldingQueue`.
    """

    def __init__(
        self,
        choose: Callable[[Request], _T | Deferral],
        slack_s: Callable[[Request, admission.Line], float],
        time: TimeSource,
        late_s: float = 0.0,
    ) -> None:
        self._ask = choose
        self._waiting: set[asyncio.Future[_T]] = set()
        self.queue: HoldingQueue[_T | Exception] = HoldingQueue(
            self._choose, slack_s, time=time, call_later=_call_later, late_s=late_s
        )

    async def servers(self, request: Request, plan: Callable[[_T], None], left_s: float) -> _T:
        """What a request is sent to, once its turn has come.

        Args:
            request: What is to be served.
            plan: Called with that at the very moment, before anybody else is chosen for.
            left_s: Time that is left for it.

        Raises:
            Problem: If no server is to be had, or time is up.
        """
        chosen: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def send(choice: _T | Exception) -> None:
            if chosen.done():  # its client has gone, or the router ends
                return
            if isinstance(choice, Exception):
                chosen.set_exception(choice)
                return
            plan(choice)
            chosen.set_result(choice)

        held = self.queue.offer(request, send, left_s=left_s)
        if held is None:
            return chosen.result()
        self._waiting.add(chosen)
        try:
            async with asyncio.timeout(left_s):
                return await chosen
        except TimeoutError:
            raise overdue(left_s) from None
        finally:
            self._waiting.discard(chosen)
            self.queue.cancel(held)

    def end_all(self, problem: Problem) -> None:
        """End all that wait with an error."""
        for chosen in tuple(self._waiting):
            if not chosen.done():
                chosen.set_exception(problem)

    def _choose(self, request: Request) -> _T | Exception | Deferral:
        try:
            return self._ask(request)
        except Exception as error:  # noqa: BLE001  (it ends this request, and not the line)
            return error


class Holding:
    """Both lines of a router.

    Args:
        chooser: Chooses servers.
        time: Time source.
    """

    def __init__(self, chooser: Chooser, time: TimeSource) -> None:
        self._chooser = chooser
        self._time = time
        self._complained = False
        self._before_prefill: Line[Pair] = Line(
            chooser.pair, partial(self._slack_s, prefill_slack_s), time, LATE_S
        )
        self._before_decode: Line[Backend] = Line(
            chooser.late, partial(self._slack_s, decode_slack_s), time
        )
        self._lines: dict[str, HoldingQueue[Any]] = {
            "prefill": self._before_prefill.queue,
            "decode": self._before_decode.queue,
        }
        self.defers = chooser.defers

    async def pair(self, request: Request, plan: Callable[[Pair], None], left_s: float) -> Pair:
        """The servers of a request before its prefill; see `Line.servers`."""
        return await self._before_prefill.servers(request, plan, left_s)

    async def late(
        self, request: Request, plan: Callable[[Backend], None], left_s: float
    ) -> Backend:
        """The decode server of one whose prompt is computed; see `Line.servers`."""
        return await self._before_decode.servers(request, plan, left_s)

    def tell_intents(self, tell: Callable[[str, IntendedDemand], None]) -> None:
        """Tell what routers intend for the instances, and how long requests may be held."""
        self._chooser.tell_intents(tell, self._may_hold_s)

    def _may_hold_s(self) -> float:
        return max(queue.may_hold_s() for queue in self._lines.values())

    def wake(self) -> None:
        """A request has ended, which may make room for one that waits."""
        for queue in self._lines.values():
            queue.wake()

    def end_all(self, problem: Problem) -> None:
        """End all that wait with an error."""
        self._before_prefill.end_all(problem)
        self._before_decode.end_all(problem)

    def _slack_s(
        self,
        slack_s: Callable[[Request, Iterable[Candidate], float, admission.Line], float],
        request: Request,
        line: admission.Line,
    ) -> float:
        """How long a request may be held; not at all where that cannot be told."""
        try:
            candidates = self._chooser.prefill_candidates()
            return slack_s(request, candidates, self._time.now_s(), line)
        except Exception as error:  # noqa: BLE001  (a user's predictor must not fail requests)
            if not self._complained:
                self._complained = True
                structlog.get_logger("voltana.router").warning(
                    "a predictor failed; requests are not held", why=f"{error!r:.200}"
                )
            return -math.inf

    def figures(self) -> dict[str, Any]:
        """For the router's status."""
        return {
            leg: {
                "held": len(queue),
                "oldest_s": round(queue.oldest_s, 4),
                "held_in_all": queue.counts.held,
                "overdue": queue.counts.overdue,
                "late": queue.counts.late,
                "cancelled": queue.counts.cancelled,
                "longest_s": round(queue.counts.longest_s, 4),
                "reasons": dict(queue.counts.reasons),
            }
            for leg, queue in self._lines.items()
        }

    def collect(self) -> Iterator[Metric]:
        """The same for Prometheus, read at the time of a scrape."""
        lines = self._lines.items()
        yield family(told.HELD, (((leg,), float(len(queue))) for leg, queue in lines))
        yield family(told.HELD_OLDEST, (((leg,), queue.oldest_s) for leg, queue in lines))
        yield family(
            told.DEFERRED,
            (
                ((leg, reason), float(number))
                for leg, queue in lines
                for reason, number in queue.counts.reasons.items()
            ),
        )
        yield family(told.HELD_LATE, (((leg,), float(q.counts.late)) for leg, q in lines))
        yield family(told.HELD_SECONDS, (((leg,), q.counts.waited_s) for leg, q in lines))
        yield family(
            told.HELD_ENDED,
            (
                ((leg, how), float(getattr(queue.counts, how)))
                for leg, queue in lines
                for how in ("overdue", "cancelled")
            ),
        )


def _call_later(for_s: float, action: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(for_s if for_s < math.inf else 0.0, action)
