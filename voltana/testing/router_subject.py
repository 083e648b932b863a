"""What the checks of a router share: the subject, pools of instances, and a dispatcher's ledger."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.testing import samples
from voltana.testing.report import expect
from voltana.values import InstanceState, Reservation, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Deferral, Request

FLOOD = 1200
"""Requests of a flood; over 4 instances it leaves 300 in each, far over any batch's sweet spot."""


@dataclass(frozen=True, slots=True)
class RouterSubject:
    """What `check_router` was given."""

    make: Callable[[], Router]
    roles: tuple[Role, ...]
    time_limit_s: float


def busy(count: int, role: Role) -> list[Candidate]:
    """Instances whose loads differ."""
    return [
        samples.candidate(
            i,
            role,
            state=InstanceState(
                running_requests=17 * (i % 5) + i,
                kv_tokens=9_000 * (i % 5) + 700 * i,
                queued_requests=i % 3,
                queued_tokens=400 * (i % 3),
                clock_mhz=samples.CLOCKS_MHZ[-1 - i],
            ),
            in_flight=17 * (i % 5) + 2 * i,
        )
        for i in range(count)
    ]


def equal(count: int, role: Role) -> list[Candidate]:
    """Instances that are alike and idle."""
    state = InstanceState(clock_mhz=samples.CLOCKS_MHZ[-1])
    return [samples.candidate(i, role, state=state) for i in range(count)]


def flood(router: Router, role: Role, count: int = FLOOD) -> Iterator[str]:
    """Route `count` requests of which none finishes, with a dispatcher's ledger."""
    pool = {c.instance: c for c in equal(4, role)}
    for i in range(count):
        request = samples.request(i)
        chosen = expect_named(router.route(request, list(pool.values())), list(pool.values()))
        pool[chosen] = _joined(pool[chosen], request)
        yield chosen


def _joined(candidate: Candidate, request: Request) -> Candidate:
    held = candidate.reserved
    return dataclasses.replace(
        candidate,
        reserved=Reservation(
            requests=held.requests + 1, prompt_tokens=held.prompt_tokens + request.prompt_tokens
        ),
        in_flight=candidate.in_flight + 1,
    )


def expect_candidate(router: Router, candidates: Sequence[Candidate], times: int = 3) -> None:
    """Raise a violation unless a few requests go to one of `candidates`."""
    for i in range(times):
        expect_named(router.route(samples.request(i), candidates), candidates)


def expect_named(chosen: str | Deferral, candidates: Sequence[Candidate]) -> str:
    """`chosen`; raises a violation unless it is the name of one of `candidates`."""
    names = [c.instance for c in candidates]
    seen = f"{chosen!r} where the candidates are {names}"
    remedy = "Return Candidate.instance of one of them; defer only where Request.slack_s is not 0."
    expect(isinstance(chosen, str) and chosen in names, seen, remedy)
    return str(chosen)
