"""What the contract of a router says of deferring requests; a router that never does keeps it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from voltana.ports import may_defer
from voltana.testing import samples
from voltana.testing.report import expect
from voltana.testing.router_subject import busy, equal, expect_named
from voltana.values import Deferral, Forecast, InstanceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from voltana.ports import Router
    from voltana.testing.router_subject import RouterSubject
    from voltana.values import Candidate, FloatArray, Request, Role

SLACKS_S = (1e-3, 0.2, math.inf)


def defers_nothing_without_slack(subject: RouterSubject) -> None:
    """A request whose slack_s is 0 gets an instance, however full all of them are."""
    for role in subject.roles:
        router = subject.make()
        for pool in _pools(role):
            for slack_s in (math.inf, 0.0, 0.2, 0.0):
                answer = router.route(_request(slack_s, waited_s=0.5), pool)
                if slack_s == 0:
                    expect_named(answer, pool)


def says_that_it_defers(subject: RouterSubject) -> None:
    """A router that answers with a Deferral has ``defers = True``, or engines show it no slack."""
    for router, answer, _ in _answers(subject):
        says = not isinstance(answer, Deferral) or may_defer(router)
        expect(says, f"{answer!r} of a router without it", "Set the class attribute defers = True.")


def defers_for_a_time_and_a_reason(subject: RouterSubject) -> None:
    """A Deferral has a finite time above 0, a reason and a share; all else names a candidate."""
    for _, answer, pool in _answers(subject):
        if not isinstance(answer, Deferral):
            expect_named(answer, pool)
            continue
        sound = 0 < answer.for_s < math.inf and bool(answer.reason)
        remedy = "Give for_s in seconds, about an iteration; the queue asks at completions anyway."
        expect(sound, f"{answer!r}", remedy)
        remedy = "Give late_share from 0 to 1, 0 where each is to go at once that is late."
        expect(0 <= answer.late_share <= 1, f"{answer!r}", remedy)


def defers_nothing_blindly(subject: RouterSubject) -> None:
    """Where models, levels, budgets or fresh states are missing, requests are served."""
    for role in subject.roles:
        router = subject.make()
        for pool in _full(role):
            for change in (
                {"predictor": None},
                {"predictor": _Unknowing()},
                {"levels_mhz": ()},
                {"budget_s": math.inf},
                {"state_age_s": math.inf},
            ):
                blind = [dataclasses.replace(c, **change) for c in pool]
                answer = router.route(_request(math.inf), blind)
                seen = f"{answer!r} where all candidates have {change}"
                remedy = "Defer only where every model tells that sending does harm."
                expect(not isinstance(answer, Deferral), seen, remedy)


def lets_requests_in_where_there_is_room(subject: RouterSubject) -> None:
    """What was deferred gets an instance once the instances are idle: no answer is for ever."""
    for role in subject.roles:
        router = subject.make()
        for pool in _full(role):
            router.route(_request(math.inf), pool)
            router.route(_request(0.2), pool)
            idle = equal(len(pool), role)
            for slack_s in SLACKS_S:
                answer = router.route(_request(slack_s, waited_s=0.1), idle)
                seen = f"{answer!r} where every instance is idle"
                expect(not isinstance(answer, Deferral), seen, "Look at these candidates alone.")


DEFERRAL_CHECKS: tuple[Callable[[RouterSubject], None], ...] = (
    defers_nothing_without_slack,
    says_that_it_defers,
    defers_for_a_time_and_a_reason,
    defers_nothing_blindly,
    lets_requests_in_where_there_is_room,
)


class _Unknowing:
    """A latency model that has learned nothing: infinite bounds."""

    def forecast(self, load: object, clocks_mhz: FloatArray) -> Forecast:
        del load
        unknown = clocks_mhz * math.inf
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)

    def to_dict(self) -> dict[str, object]:
        return {}


def _answers(
    subject: RouterSubject,
) -> Iterator[tuple[Router, str | Deferral, Sequence[Candidate]]]:
    """Answers on full and on busy instances, to requests with some slack."""
    for role in subject.roles:
        for pool in _pools(role):
            for slack_s in SLACKS_S:
                router = subject.make()
                yield router, router.route(_request(slack_s), pool), pool


def _pools(role: Role) -> Iterator[list[Candidate]]:
    yield from _full(role)
    yield busy(4, role)
    yield equal(2, role)


def _full(role: Role) -> Iterator[list[Candidate]]:
    """Instances far beyond every batch that fits a budget; one, some, and little by little."""
    for count, requests in ((1, 4096), (2, 4096), (4, 1500)):
        state = InstanceState(
            running_requests=requests,
            kv_tokens=300 * requests,
            queued_requests=requests,
            queued_tokens=300 * requests,
            clock_mhz=samples.CLOCKS_MHZ[-1],
            oldest_wait_s=1.0,
        )
        yield [
            samples.candidate(i, role, state=state, in_flight=2 * requests) for i in range(count)
        ]


def _request(slack_s: float, waited_s: float = 0.0) -> Request:
    return dataclasses.replace(samples.request(7), slack_s=slack_s, waited_s=waited_s)
