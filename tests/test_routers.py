"""Routers: the released behaviour case by case, and what ours do with what they know."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.planning import candidate_load, load_with, planned_clock_mhz
from voltana.routers.ecoroute import EcoRoute
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.least_memory import LeastMemory
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.routers.tile_aware import TileAware
from voltana.routers.what_if_v01 import WhatIfV01
from voltana.testing import check_router, samples
from voltana.testing import strategies as vst
from voltana.values import Forecast, InstanceState, Reservation, Role

FACTORIES = {
    "round robin": RoundRobin,
    "random": lambda: RandomRouter(7),
    "least loaded": LeastLoaded,
    "tile aware": TileAware,
    "what-if v0.1": WhatIfV01,
    "EcoRoute": EcoRoute,
    "EcoRoute by load": lambda: EcoRoute(LeastLoaded(), boundary_mhz=100.0, wake_share=0.8),
}
LEVELS = (1005.0, 1200.0, 1410.0)


class Stairs:
    """A predictor whose latency at the fastest clock is given by the batch; slower, it scales."""

    def __init__(self, seconds_of):
        self.seconds_of = seconds_of

    def forecast(self, load, clocks_mhz):
        seconds = self.seconds_of(load.decode_requests, load.decode_kv_tokens)
        mean_s = seconds * clocks_mhz[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


def decode(name, running=0, *, clock_mhz=1410.0, kv=None, **changes):
    """A decode candidate whose requests all run."""
    state = InstanceState(
        running_requests=running,
        kv_tokens=running * 300 if kv is None else kv,
        clock_mhz=clock_mhz,
    )
    fields = {"instance": name, "state": state, "in_flight": running, "levels_mhz": LEVELS}
    return samples.candidate(0, Role.DECODE, **(fields | changes))


def route(router, *candidates, prompt_tokens=300):
    return router.route(samples.request(0, prompt_tokens=prompt_tokens), candidates)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_router_keeps_its_contract(name):
    check_router(FACTORIES[name]).raise_if_failed()


@given(vst.candidates(Role.DECODE), vst.requests(), st.sampled_from(sorted(FACTORIES)))
def test_every_router_names_a_decode_candidate(candidates, request, name):
    assert FACTORIES[name]().route(request, candidates) in {c.instance for c in candidates}


@given(vst.candidates(Role.PREFILL), vst.requests(), st.sampled_from(sorted(FACTORIES)))
def test_every_router_names_a_prefill_candidate(candidates, request, name):
    assert FACTORIES[name]().route(request, candidates) in {c.instance for c in candidates}


def test_round_robin_takes_turns():
    router, pool = RoundRobin(), [decode(n) for n in "abc"]
    assert "".join(route(router, *pool) for _ in range(7)) == "abcabca"


def test_random_choices_follow_the_seed_and_reach_everybody():
    pool = [decode(n) for n in "abc"]

    def choices(seed):
        router = RandomRouter(seed)
        return [route(router, *pool) for _ in range(300)]

    assert choices(1) == choices(1) != choices(2)
    assert min(Counter(choices(1)).values()) > 70


class TestLeastLoaded:
    def prefill(self, name, queued_tokens, reserved_tokens=0):
        state = InstanceState(queued_tokens=queued_tokens, queued_requests=1, clock_mhz=1410.0)
        reserved = Reservation(requests=1, prompt_tokens=reserved_tokens)
        return samples.candidate(0, Role.PREFILL, instance=name, state=state, reserved=reserved)

    def test_prefill_counts_tokens_queued_and_on_their_way(self):
        assert route(LeastLoaded(), self.prefill("a", 500), self.prefill("b", 400)) == "b"
        assert route(LeastLoaded(), self.prefill("a", 500), self.prefill("b", 400, 101)) == "a"

    def test_decode_counts_requests_wherever_they_are(self):
        assert route(LeastLoaded(), decode("a", 9), decode("b", 8)) == "b"
        queued = InstanceState(running_requests=5, queued_requests=5, clock_mhz=1410.0)
        assert route(LeastLoaded(), decode("a", 9), decode("b", state=queued, in_flight=0)) == "a"
        burst = decode("b", 5, reserved=Reservation(requests=5, prompt_tokens=9))
        assert route(LeastLoaded(), decode("a", 9), burst) == "a"
        assert route(LeastLoaded(), decode("a", 9), decode("b", 5, in_flight=10)) == "a"

    def test_ties_go_to_the_first_name(self):
        assert route(LeastLoaded(), decode("b", 4), decode("a", 4)) == "a"


@pytest.mark.parametrize(
    ("in_flight", "clocks_mhz", "chosen"),
    [
        # No full tile anywhere: the lowest measured clock, then the fewest requests.
        ((10, 100), (1410, 1005), 1),
        ((100, 10), (1005, 1005), 1),
        ((127, 127), (1005, 1005), 0),
        # One has 128: fewest tiles, then the fullest.
        ((128, 100), (1005, 1410), 1),
        ((129, 100), (1005, 1410), 1),
        ((200, 100, 120), (1005, 1005, 1005), 2),
        ((200, 250), (1005, 1005), 1),
        ((300, 250), (1005, 1005), 1),
        # Exactly full ones are skipped, an empty one is not full.
        ((128, 200), (1005, 1005), 1),
        ((256, 300), (1005, 1005), 1),
        ((128, 0), (1005, 1005), 1),
        # An empty one has no tile yet.
        ((130, 0, 5), (1005, 1005, 1005), 1),
        # All are exactly full: the first in the order of tiles.
        ((256, 128), (1005, 1005), 1),
        ((128, 128), (1005, 1005), 0),
    ],
)
def test_tile_aware_routes_as_released(in_flight, clocks_mhz, chosen):
    pool = [
        decode(f"d{i}", n, clock_mhz=float(mhz))
        for i, (n, mhz) in enumerate(zip(in_flight, clocks_mhz, strict=True))
    ]
    assert route(TileAware(), *pool) == f"d{chosen}"


class TestLeastMemory:
    def test_decode_counts_tokens_before_requests(self):
        long = InstanceState(running_requests=5, kv_tokens=20_000, clock_mhz=1410.0)
        many = InstanceState(running_requests=9, kv_tokens=9_000, clock_mhz=1410.0)
        assert route(LeastMemory(), decode("a", state=long), decode("b", state=many)) == "b"
        assert route(LeastMemory(10_000.0), decode("a", state=long), decode("b", state=many)) == "a"

    def test_what_is_on_its_way_counts(self):
        burst = decode("a", 5, reserved=Reservation(requests=1, prompt_tokens=50_000))
        assert route(LeastMemory(), burst, decode("b", 9)) == "b"


class TestWhatIfV01:
    """Latency depends on KV tokens alone: 50 ms, the budget, for 100 000 at the fastest level."""

    MODEL = Stairs(lambda batch, kv: 0.05 * kv / 100_000)

    def make(self, name, batch, kv, levels=(1005.0, 1410.0)):
        return decode(name, batch, kv=kv, predictor=self.MODEL, budget_s=0.05, levels_mhz=levels)

    def test_below_a_tile_it_routes_as_tile_aware(self):
        low, high = decode("a", 100, clock_mhz=1005.0), decode("b", 1)
        assert route(WhatIfV01(), low, high) == route(TileAware(), low, high) == "a"

    def test_prefers_the_instance_whose_clock_does_not_rise(self):
        # 1005 MHz holds 71 276 tokens; 50 tokens more for each of 200 requests are 10 000.
        stays, rises = self.make("b", 200, 55_000), self.make("a", 200, 65_000)
        assert route(WhatIfV01(), rises, stays) == "b"

    def test_an_instance_at_the_fastest_level_counts_as_rising(self):
        stays, fastest = self.make("b", 250, 40_000), self.make("a", 130, 90_000)
        assert route(WhatIfV01(), fastest, stays) == "b"

    def test_fewer_tiles_and_a_fuller_tile_break_ties(self):
        pool = [self.make(n, batch, 10_000) for n, batch in (("a", 300), ("b", 130), ("c", 200))]
        assert route(WhatIfV01(), *pool) == "c"

    def test_of_those_that_stay_the_faster_comes_first(self):
        levels = (1005.0, 1200.0, 1410.0)
        slow = self.make("a", 130, 20_000, levels)
        faster = self.make("b", 130, 75_000, levels)
        assert route(WhatIfV01(), slow, faster) == "b"

    def test_more_than_a_level_apart_the_lowest_clock_comes_first(self):
        slow = self.make("a", 130, 20_000, LEVELS)
        faster = self.make("b", 130, 75_000, LEVELS)
        fastest = self.make("c", 130, 95_000, LEVELS)
        assert route(WhatIfV01(), fastest, faster, slow) == "a"

    def test_without_a_predictor_it_routes_as_tile_aware(self):
        pool = [decode("a", 130, predictor=None), decode("b", 200)]
        assert route(WhatIfV01(), *pool) == route(TileAware(), *pool)


class TestEcoRoute:
    """A slope below the tile boundary and a stair at it; at 1005 MHz the budget holds 100 requests.

    At 1200 MHz it holds 119, at the fastest 140.
    """

    MODEL = Stairs(lambda batch, kv: 0.05 * batch / 140.4)

    def make(self, name, running, **changes):
        return decode(name, running, predictor=self.MODEL, budget_s=0.05, **changes)

    def test_the_example_has_the_boundaries_that_it_says(self):
        for running, after_mhz in ((99, 1005.0), (100, 1200.0), (119, 1410.0), (140, float("inf"))):
            candidate = self.make("a", running)
            after = load_with(candidate_load(candidate), samples.request(0), Role.DECODE)
            assert planned_clock_mhz(candidate, after) == after_mhz

    def test_no_boundary_near_is_round_robin(self):
        router, pool = EcoRoute(), (self.make("a", 20), self.make("b", 60))
        assert "".join(route(router, *pool) for _ in range(4)) == "abab"

    def test_avoids_the_instance_whose_clock_would_rise(self):
        router, pool = EcoRoute(), (self.make("a", 100), self.make("b", 60))
        assert {route(router, *pool) for _ in range(4)} == {"b"}

    def test_a_rise_that_has_happened_is_no_boundary(self):
        router, pool = EcoRoute(), (self.make("a", 100), self.make("b", 110))
        assert {route(router, *pool) for _ in range(4)} == {"b"}

    def test_avoids_a_new_tile(self):
        cheap = Stairs(lambda batch, kv: 0.001)
        router = EcoRoute()
        pool = (decode("a", 128, predictor=cheap), decode("b", 200, predictor=cheap))
        assert {route(router, *pool) for _ in range(4)} == {"b"}

    def test_what_is_reserved_counts(self):
        router = EcoRoute()
        reserved = Reservation(requests=1, prompt_tokens=300)
        pool = (self.make("a", 99, reserved=reserved), self.make("b", 60))
        assert {route(router, *pool) for _ in range(4)} == {"b"}

    def test_where_all_cross_the_least_harm_is_done(self):
        router = EcoRoute()
        assert route(router, self.make("a", 140), self.make("b", 119)) == "b"
        # 1005 -> 1200 is 195 MHz, 1200 -> 1410 is 210.
        assert route(router, self.make("a", 119), self.make("b", 100)) == "b"

    def test_where_no_clock_can_save_any_the_fallback_routes(self):
        router, pool = EcoRoute(), (self.make("a", 145), self.make("b", 170))
        assert "".join(route(router, *pool) for _ in range(4)) == "abab"

    def test_small_rises_may_be_ignored(self):
        router = EcoRoute(boundary_mhz=200.0)
        pool = (self.make("a", 100), self.make("b", 60))
        assert "".join(route(router, *pool) for _ in range(4)) == "abab"
        assert route(router, self.make("a", 119), self.make("b", 60)) == "b"

    def test_an_empty_instance_is_within_its_first_tile(self):
        assert route(EcoRoute(), self.make("a", 100), self.make("b", 0)) == "b"

    def test_idle_instances_sleep_until_the_others_need_a_high_clock(self):
        def chosen(running, **options):
            router = EcoRoute(LeastLoaded(), wake_share=0.8, **options)
            return route(router, self.make("a", 0), self.make("b", running))

        assert chosen(50) == "b"
        # 1200 MHz is above 0.8 * 1410 MHz; getting there crosses a boundary as well.
        assert chosen(110) == "a"
        assert chosen(100) == "a"
        assert route(EcoRoute(LeastLoaded()), self.make("a", 0), self.make("b", 50)) == "a"

    def test_idle_instances_wake_before_the_memory_of_the_others_is_full(self):
        def chosen(capacity):
            router = EcoRoute(LeastLoaded(), wake_share=0.8)
            return route(router, self.make("a", 0), self.make("b", 50, kv_capacity_tokens=capacity))

        assert chosen(math.inf) == chosen(100_000) == "b"
        assert chosen(40_000) == "a"

    def test_an_instance_with_requests_on_their_way_is_awake(self):
        router = EcoRoute(LeastLoaded(), wake_share=0.8)
        assert route(router, self.make("a", 0, in_flight=1), self.make("b", 50)) == "a"

    def test_all_asleep_wakes_one(self):
        router = EcoRoute(LeastLoaded(), wake_share=0.8)
        assert route(router, self.make("b", 0), self.make("a", 0)) == "a"

    def test_a_share_is_a_share(self):
        with pytest.raises(ConfigError, match=r"wake_share = 1\.5"):
            EcoRoute(wake_share=1.5)

    @pytest.mark.parametrize(
        "unknown",
        [{"predictor": None}, {"levels_mhz": ()}, {"state_age_s": 0.2}],
        ids=["no predictor", "no levels", "stale"],
    )
    def test_what_is_not_known_is_not_planned_on(self, unknown):
        blind = dataclasses.replace(self.make("b", 60), **unknown)
        router = EcoRoute()
        assert "".join(route(router, self.make("a", 100), blind) for _ in range(4)) == "abab"

    def test_the_fallback_is_the_users_choice(self):
        pool = (self.make("a", 60), self.make("b", 20))
        assert {route(EcoRoute(LeastLoaded()), *pool) for _ in range(3)} == {"b"}

    @given(st.lists(st.integers(0, 160), min_size=2, max_size=6))
    def test_never_makes_a_clock_rise_where_another_need_not(self, running):
        pool = [self.make(f"d{i}", n) for i, n in enumerate(running)]
        chosen = next(c for c in pool if c.instance == route(EcoRoute(), *pool))

        def crosses(n):
            boundaries = (100, 119, 128, 140)
            return n in boundaries or n > 140

        if crosses(chosen.state.running_requests):
            assert all(crosses(n) for n in running)


@pytest.mark.parametrize("router", [TileAware, EcoRoute])
def test_a_tile_has_at_least_one_request(router):
    with pytest.raises(ConfigError, match="tile = 0"):
        router(tile=0)


def test_a_burst_does_not_herd():
    """While nothing is reported yet, the ledger alone has to spread the requests."""
    for router in (LeastLoaded(), EcoRoute(LeastLoaded())):
        reserved = Counter({"a": 0, "b": 0})
        for _ in range(60):
            pool = [
                decode(n, 10, reserved=Reservation(requests=k, prompt_tokens=300 * k))
                for n, k in reserved.items()
            ]
            reserved[route(router, *pool)] += 1
        counts = sorted(reserved.values())
        assert all(b - a <= 1 for a, b in pairwise(counts))
