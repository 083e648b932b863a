"""The contract of `voltana.ports.Router`, as named checks."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import TYPE_CHECKING

from voltana.ports import Router
from voltana.testing import samples
from voltana.testing.report import NotApplicable, Report, expect, run_checks, title_of
from voltana.testing.router_deferral import DEFERRAL_CHECKS
from voltana.testing.router_subject import (
    FLOOD,
    RouterSubject,
    busy,
    equal,
    expect_candidate,
    expect_named,
    flood,
)
from voltana.testing.timing import fastest_s
from voltana.values import InstanceState, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


def check_router(
    factory: Callable[[], Router],
    *,
    roles: Sequence[Role] = (Role.PREFILL, Role.DECODE),
    time_limit_s: float = 0.02,
    skip: Collection[str] = (),
) -> Report:
    """Hold a router to its contract.

    Args:
        factory: Makes a fresh router for every check; two of them must be alike (fix the seed).
        roles: Roles of the instances that it can route to.
        time_limit_s: What one choice among 16 instances may take.
        skip: Names of checks to leave out; those of `ROUTER_CHECKS`.
    """
    subject = RouterSubject(factory, tuple(roles), time_limit_s)
    return run_checks(title_of(factory), subject, ROUTER_CHECKS, skip)


def has_the_method_of_the_port(subject: RouterSubject) -> None:
    """A router has route(request, candidates); it needs no base class."""
    made = subject.make()
    expect(isinstance(made, Router), f"{type(made).__name__} has no route()", "Add it.")


def names_a_candidate(subject: RouterSubject) -> None:
    """route() returns the name of one of the candidates, be they 1 or 16."""
    for role in subject.roles:
        router = subject.make()
        for count in (1, 2, 3, 4, 16):
            expect_candidate(router, busy(count, role))


def takes_any_order(subject: RouterSubject) -> None:
    """The candidates may come in any order, under any name, and in any sequence type."""
    for role in subject.roles:
        router = subject.make()
        pool = busy(4, role)
        renamed = [dataclasses.replace(c, instance=f"host:{c.instance}/x") for c in pool]
        for candidates in (pool[::-1], pool[2:] + pool[:2], tuple(pool), renamed):
            expect_candidate(router, candidates)


def follows_instances_that_come_and_go(subject: RouterSubject) -> None:
    """Only the candidates of this call count: instances join and leave between calls."""
    for role in subject.roles:
        router, pool = subject.make(), busy(6, role)
        for candidates in (pool[:4], pool[4:], pool, pool[5:], pool[1:3], pool):
            expect_candidate(router, candidates, times=4)


def routes_without_predictors(subject: RouterSubject) -> None:
    """Candidates may have no predictor, all or some of them."""
    for role in subject.roles:
        bare = [dataclasses.replace(c, predictor=None) for c in busy(4, role)]
        expect_candidate(subject.make(), bare)
        expect_candidate(subject.make(), bare[:2] + busy(4, role)[2:])


def routes_without_levels_or_budget(subject: RouterSubject) -> None:
    """Candidates may tell no levels and no budget."""
    for role in subject.roles:
        pool = busy(3, role)
        unlevelled = [dataclasses.replace(c, levels_mhz=()) for c in pool]
        unbudgeted = [dataclasses.replace(c, budget_s=math.inf) for c in pool]
        for candidates in (unlevelled, unbudgeted, unlevelled[:1] + pool[1:]):
            expect_candidate(subject.make(), candidates)


def routes_on_stale_states(subject: RouterSubject) -> None:
    """Reports may be seconds old, or of unknown age (inf), all or some of them."""
    for role in subject.roles:
        for age_s in (0.5, 60.0, math.inf):
            stale = [dataclasses.replace(c, state_age_s=age_s) for c in busy(4, role)]
            expect_candidate(subject.make(), stale)
            expect_candidate(subject.make(), stale[:2] + busy(4, role)[2:])


def routes_empty_and_overloaded_instances(subject: RouterSubject) -> None:
    """Instances may be empty, or hold far more than fits any budget."""
    empty = InstanceState(clock_mhz=samples.CLOCKS_MHZ[0])
    full = InstanceState(
        running_requests=4096,
        kv_tokens=5_000_000,
        queued_requests=2000,
        queued_tokens=2_000_000,
        clock_mhz=samples.CLOCKS_MHZ[-1],
        oldest_wait_s=60.0,
    )
    for role in subject.roles:
        pool = busy(4, role)
        for states in ((empty,) * 4, (full,) * 4, (empty, full, full, empty)):
            states_of = zip(pool, states, strict=True)
            expect_candidate(
                subject.make(), [dataclasses.replace(c, state=state) for c, state in states_of]
            )


def routes_between_unlike_instances(subject: RouterSubject) -> None:
    """Instances may differ in levels, speed and budget."""
    for role in subject.roles:
        pool = [
            samples.candidate(0, role, levels_mhz=(1410.0,)),
            samples.candidate(1, role, levels_mhz=samples.CLOCKS_MHZ),
            samples.candidate(2, role, predictor=samples.LinearSnapshot(scale=0.2)),
            samples.candidate(3, role, budget_s=1e-6),
        ]
        expect_candidate(subject.make(), pool)


def routes_any_request(subject: RouterSubject) -> None:
    """Prompts may have one token or a million, with or without an expected output."""
    for role in subject.roles:
        router, pool = subject.make(), busy(4, role)
        for index, tokens in enumerate((1, 1_000_000, 1, 1_000_000)):
            request = samples.request(index, prompt_tokens=tokens)
            expect_named(router.route(request, pool), pool)


def keeps_its_inputs(subject: RouterSubject) -> None:
    """route() touches neither the request nor the sequence of candidates."""
    for role in subject.roles:
        router, pool, request = subject.make(), busy(5, role), samples.request(1)
        before = repr((request, copy.deepcopy(pool)))
        router.route(request, pool)
        seen = "request or candidates differ after route()"
        expect(repr((request, pool)) == before, seen, "Use sorted(), not list.sort().")


def starves_nobody_in_a_flood(subject: RouterSubject) -> None:
    """Of equal instances under a flood that outgrows any one of them, each gets requests."""
    for role in subject.roles:
        got = {c.instance: 0 for c in equal(4, role)}
        for chosen in flood(subject.make(), role):
            got[chosen] += 1
        seen = f"{role}: of {FLOOD} requests they got {got}"
        remedy = "Weigh what is reserved and in flight against an instance, not its state alone."
        expect(min(got.values()) > 0, seen, remedy)


def is_deterministic(subject: RouterSubject) -> None:
    """Two fresh routers make the same choices on the same stream."""
    for role in subject.roles:
        one, other = (list(flood(subject.make(), role, 200)) for _ in range(2))
        differ = sum(a != b for a, b in zip(one, other, strict=True))
        seen = f"{differ} of 200 choices differ between two instances"
        expect(differ == 0, seen, "Take a seed; use no global random state, no hash of strings.")


def keeps_no_ledger(subject: RouterSubject) -> None:
    """What a router holds does not grow with the requests routed: the dispatcher has the ledger."""
    router = subject.make()
    for role in subject.roles:
        list(flood(router, role, 200))
    early = _size(router)
    for role in subject.roles:
        list(flood(router, role, 400))
    seen = f"pickled size {early} bytes, {_size(router)} after 400 more requests"
    expect(_size(router) <= early + 256, seen, "Use Candidate.reserved and Candidate.in_flight.")


def answers_in_time(subject: RouterSubject) -> None:
    """One choice among 16 instances keeps the time limit (20 ms unless told otherwise)."""
    for role in subject.roles:
        router, pool = subject.make(), busy(16, role)
        took_s = fastest_s(lambda r=router, p=pool: r.route(samples.request(1), p))  # type: ignore[misc]
        seen = f"{1e3 * took_s:.2f} ms at best, limit {1e3 * subject.time_limit_s:g} ms"
        expect(took_s <= subject.time_limit_s, seen, "Ask each predictor once, vectorised.")


ROUTER_CHECKS: tuple[Callable[[RouterSubject], None], ...] = (
    has_the_method_of_the_port,
    names_a_candidate,
    takes_any_order,
    follows_instances_that_come_and_go,
    routes_without_predictors,
    routes_without_levels_or_budget,
    routes_on_stale_states,
    routes_empty_and_overloaded_instances,
    routes_between_unlike_instances,
    routes_any_request,
    keeps_its_inputs,
    starves_nobody_in_a_flood,
    is_deterministic,
    keeps_no_ledger,
    answers_in_time,
    *DEFERRAL_CHECKS,
)
"""The suite that `check_router` runs."""


def _size(router: Router) -> int:
    try:
        return len(pickle.dumps(router))
    except Exception as error:
        raise NotApplicable(f"it cannot be pickled, so its size is unknown ({error})") from error
