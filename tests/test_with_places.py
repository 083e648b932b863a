"""Requests go where a place is free; where none is known to be limited nothing changes."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import given

from voltana.planning import requests_of
from voltana.policies import routing
from voltana.routers.round_robin import RoundRobin
from voltana.routers.with_places import WithPlaces
from voltana.testing import samples
from voltana.testing import strategies as vst
from voltana.values import Candidate, InstanceState, Reservation, Role


def pool(*taken: int, places: float = 8, role: Role = Role.COLOCATED) -> list[Candidate]:
    """Instances with so many requests."""
    return [
        samples.candidate(
            index, role, state=InstanceState(running_requests=requests, clock_mhz=1410.0),
            max_running_requests=places,
        )
        for index, requests in enumerate(taken)
    ]  # fmt: skip


def chosen(router: WithPlaces, candidates: list[Candidate], times: int = 6) -> set[str]:
    return {str(router.route(samples.request(n), candidates)) for n in range(times)}


def test_those_with_a_place_are_taken_in_turn_and_no_other() -> None:
    assert chosen(WithPlaces(RoundRobin()), pool(8, 7, 0)) == {"c1", "c2"}
    assert chosen(WithPlaces(RoundRobin()), pool(8, 7, 9)) == {"c1"}


def test_where_none_has_a_place_the_shortest_line_is_joined() -> None:
    assert chosen(WithPlaces(RoundRobin()), pool(9, 12, 9)) == {"c0", "c2"}
    larger = [*pool(9), *(dataclasses.replace(c, instance="large") for c in pool(66, places=64))]
    assert chosen(WithPlaces(RoundRobin()), larger) == {"large"}


def test_what_is_on_its_way_takes_a_place() -> None:
    one, other = pool(7, 7)
    sent = dataclasses.replace(one, reserved=Reservation(requests=1, prompt_tokens=10))
    assert chosen(WithPlaces(RoundRobin()), [sent, other]) == {"c1"}
    flying = dataclasses.replace(one, in_flight=8)
    assert chosen(WithPlaces(RoundRobin()), [flying, other]) == {"c1"}


@given(vst.candidates())
def test_where_no_limit_binds_another_router_decides_alone(
    candidates: tuple[Candidate, ...],
) -> None:
    free = [dataclasses.replace(one, max_running_requests=math.inf) for one in candidates]
    router, plain = WithPlaces(RoundRobin()), RoundRobin()
    for number in range(7):
        request = samples.request(number)
        assert router.route(request, free) == plain.route(request, free)
    for number in range(7):
        name = router.route(samples.request(number), candidates)
        one = next(one for one in candidates if one.instance == name)
        if requests_of(one) >= one.max_running_requests:
            assert all(requests_of(c) >= c.max_running_requests for c in candidates)


def test_voltana_s_colocated_instances_are_chosen_by_their_places() -> None:
    for make in (routing.within_boundaries, routing.together_by_prefix):
        assert {make(0).route(samples.request(n), pool(8, 3, 8)) for n in range(4)} == {"c1"}
