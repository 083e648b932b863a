"""Affinity against load: when a prompt goes where its beginning is, and when it does not."""

from __future__ import annotations

import math

import pytest

from voltana.errors import ConfigError
from voltana.policies.routing import within_boundaries
from voltana.ports import intended_by, may_defer, needs_of
from voltana.routers.prefix_affinity import PrefixAffinity
from voltana.routers.round_robin import RoundRobin
from voltana.routers.viable_batch import ViableBatch
from voltana.serving.router.prefix_header import HEADER, told_prefix
from voltana.serving.router.problem import Problem
from voltana.serving.router.routers import ROUTERS
from voltana.testing import check_router
from voltana.values import (
    Candidate,
    Deferral,
    InstanceState,
    IntendedDemand,
    Prefix,
    Request,
    Role,
)


def prefill(name: str, queued: int = 0, capacity: float = math.inf) -> Candidate:
    state = InstanceState(queued_tokens=queued, clock_mhz=1410.0)
    return Candidate(instance=name, role=Role.PREFILL, state=state, kv_capacity_tokens=capacity)


def asked(number: int, ids: tuple[int, ...] | None = (1, 2, 3), tokens: int = 1600) -> Request:
    prefix = None if ids is None else Prefix(ids, 512)
    return Request(request_id=number, arrived_at_s=0.0, prompt_tokens=tokens, prefix=prefix)


class Always:
    def __init__(self, name):
        self.name = name

    def route(self, request, candidates):
        return self.name


AROUND = {**ROUTERS, "voltana": within_boundaries, "viable batch": lambda _seed: ViableBatch()}


@pytest.mark.parametrize("name", list(AROUND))
def test_it_is_a_router_around_any_other_and_says_what_that_one_says(name):
    check_router(lambda: PrefixAffinity(AROUND[name](0))).raise_if_failed()
    inner = AROUND[name](0)
    router = PrefixAffinity(inner)
    assert router.needs == needs_of(inner)
    assert may_defer(router) is may_defer(inner)
    assert intended_by(router, [prefill("a")]) == intended_by(inner, [prefill("a")])


def test_what_the_other_router_intends_is_told():
    class Knows(Always):
        def intended(self, candidates):
            return {"a": IntendedDemand(pool_per_s=4000.0, share=0.5)}

    assert list(intended_by(PrefixAffinity(Knows("a")), [prefill("a")])) == ["a"]


def test_instances_that_never_come_back_are_forgotten():
    """A name of its own for each start, as of pods, had kept a cache of each for ever."""
    router = PrefixAffinity(RoundRobin())
    for start in range(100):
        router.route(asked(start), [prefill(f"a-{start}"), prefill(f"b-{start}")])
    assert len(router._kept) <= 4
    # One that is not shown for a while is none of them.
    router = PrefixAffinity(Always("a"))
    both = [prefill("a"), prefill("b")]
    router.route(asked(0), both)
    router._inner.name = "b"
    router.route(asked(1, (7, 8)), both[1:])
    assert router.route(asked(2), both) == "a"


def test_a_prompt_follows_its_beginning_unless_load_says_otherwise():
    router = PrefixAffinity(Always("a"))
    inner = router._inner
    pool = [prefill("a"), prefill("b")]
    assert router.route(asked(0), pool) == "a"
    inner.name = "b"
    assert router.route(asked(1), pool) == "a"  # 1536 tokens are there, and nothing is pending
    assert router.route(asked(2), [prefill("a", 1500), prefill("b")]) == "a"
    assert router.route(asked(3), [prefill("a", 1700), prefill("b")]) == "b"
    assert router.route(asked(4, None), pool) == "b"
    assert router.route(asked(5, (8, 9)), pool) == "b"


def test_the_weight_says_what_a_token_found_is_worth():
    def second(weight: float, queued: int) -> str:
        router = PrefixAffinity(Always("a"), weight=weight)
        router.route(asked(0), [prefill("a"), prefill("b")])
        router._inner.name = "b"
        return router.route(asked(1), [prefill("a", queued), prefill("b")])

    assert second(0.0, 0) == "b"
    assert second(3.0, 4000) == "a"
    assert second(3.0, 5000) == "b"


def test_it_forgets_as_the_instance_does():
    router = PrefixAffinity(Always("a"))
    small = [prefill("a", capacity=2000), prefill("b", capacity=2000)]
    router.route(asked(0), small)
    router.route(asked(1, (7, 8, 9)), small)  # evicts the first prompt there
    router._inner.name = "b"
    assert router.route(asked(2), small) == "b"


def test_a_deferral_of_the_inner_router_stays_one():
    class Defers:
        def route(self, request, candidates):
            return Deferral(for_s=0.1, reason="full")

    assert isinstance(PrefixAffinity(Defers()).route(asked(0), [prefill("a")]), Deferral)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_impossible_weights_are_named(weight):
    with pytest.raises(ConfigError, match=r"weight = .* is not allowed: must be at least 0"):
        PrefixAffinity(weight=weight)


def test_a_request_says_by_a_header_what_its_prompt_shares():
    assert told_prefix({}) is None
    assert told_prefix({HEADER: " 512: 12,13, 14"}) == Prefix((12, 13, 14), 512)


@pytest.mark.parametrize(
    "text",
    ["512", "512:", "0:1", "512:1,,2", "512:-1", "512:a", "x:1", "512:9223372036854775808",
     "99999999:1", "512:" + "1," * 9000 + "1", "512:\u0661"],
)  # fmt: skip
def test_headers_that_are_none_are_refused(text):
    with pytest.raises(Problem) as caught:
        told_prefix({HEADER: text})
    assert caught.value.status == 400
    assert "must be the tokens of a block (1 to 65536)" in str(caught.value.message)
