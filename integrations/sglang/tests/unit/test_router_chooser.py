"""Choosing an instance: what routers are shown, where they come from, and what they lack."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import structlog
from chooser_bench import Bench, Recording, facts, told, whole_facts
from router_cluster import cluster

from voltana.cluster.context import LIMITS_UNKNOWN
from voltana.errors import ConfigError
from voltana.policies.named import get_policy
from voltana.serving.feed_message import FeedMessage
from voltana.serving.router.feeds import FeedFollower
from voltana.serving.router.pool import Backend
from voltana.serving.router.problem import Problem
from voltana.serving.router.reports import FEED, LOADS, Report
from voltana.serving.router.routers import make_routers
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.values import InstanceState, Role
from voltana_sglang.dialect.loads import state_of


def test_the_policy_s_router_sees_fresh_states_and_reservations() -> None:
    router = Recording()
    bench = Bench(router)
    bench.report("d0", 4)
    bench.report("d1", 5, age_s=0.05)
    bench.book(1, "d0")
    assert bench.choose() == "d1"
    assert bench.counted == [FEED]
    first, second = router.shown
    assert (first.state.running_requests, first.reserved.requests, first.in_flight) == (4, 1, 1)
    assert second.state_age_s == pytest.approx(0.05)
    assert first.role is Role.DECODE


def test_a_stale_feed_falls_back_to_loads_and_then_to_the_ledger() -> None:
    router = Recording()
    bench = Bench(router)
    bench.report("d0", 4)
    bench.report("d1", 5, source=LOADS)
    bench.choose()
    bench.time.advance(0.2)
    bench.book(1, "d0")
    router.shown = []
    assert bench.choose() == "d1"  # least in flight, whatever the router would say
    assert router.shown == []
    assert bench.counted == [LOADS, "in-flight"]


def test_a_long_iteration_is_not_stale_while_its_agent_stands_by_it() -> None:
    """What a prefill of 300 ms began with is all that is known of it, and enough to route by."""
    router = Recording()
    bench = Bench(router)
    ledger, message = bench.ledger, FeedMessage(
        instance="d0", state=InstanceState(running_requests=4, clock_mhz=1200.0), age_s=0.3,
        budget_s=0.065, rooms=(), names_waiting=True, facts=None,
    )  # fmt: skip
    follower = FeedFollower({"d0"}, reports=bench.reports, ledger=ledger, time=bench.time)
    bench.report("d1", 5)
    follower._use(message)
    bench.choose()
    assert bench.counted == [FEED]
    assert router.shown[0].state_age_s == 0.0
    bench.time.advance(0.2)  # and now nobody stands by it any more
    bench.report("d1", 5)
    bench.choose()
    assert bench.counted == [FEED, "in-flight"]


def test_an_iteration_that_does_not_end_is_stale_whoever_stands_by_it() -> None:
    bench = Bench(Recording())
    state, now_s = InstanceState(running_requests=4, clock_mhz=1200.0), bench.time.now_s()
    hung = Report(state=state, sampled_s=now_s - 5.1, source=FEED, facts=facts(), heard_s=now_s)
    bench.reports.put("d0", hung)
    assert hung.age_s(now_s) == pytest.approx(5.1)
    assert bench.reports.fresh("d0", now_s) is None


@pytest.mark.parametrize("answer", [ValueError("no"), "d7"])
def test_a_user_s_router_that_fails_costs_no_request(answer: Any) -> None:
    bench = Bench(Recording(answer))
    bench.report("d0", 9)
    bench.report("d1", 5)
    with structlog.testing.capture_logs() as logs:
        bench.leg._log = structlog.get_logger()
        assert [bench.choose() for _ in range(3)] == ["d1"] * 3
    assert bench.counted == ["router-failed"] * 3
    assert len(logs) == 1  # not one for every request


def test_instances_to_avoid_are_taken_only_where_there_is_no_other() -> None:
    bench = Bench(Recording("d0"))
    assert bench.choose(avoid={"d0"}) == "d1"
    bench.backends[1].draining = True
    assert bench.choose(avoid={"d0"}) == "d0"
    bench.backends[0].failed("refused", dead=True)
    with pytest.raises(Problem, match=r"d0: refused; d1: draining"):
        bench.choose()


def test_a_burst_on_a_stale_cluster_spreads_evenly() -> None:
    bench = Bench(Recording())
    chosen = []
    for number in range(10):
        chosen.append(bench.choose())
        bench.book(number, chosen[-1])
    assert chosen.count("d0") == chosen.count("d1") == 5


def test_loads_of_all_ranks_add_up() -> None:
    ranks = [
        {"num_running_reqs": 2, "num_waiting_reqs": 1, "num_used_tokens": 30},
        {
            "num_running_reqs": 3,
            "num_waiting_reqs": 0,
            "num_used_tokens": 9,
            "num_active_tokens": 8,
        },
    ]
    state = state_of(ranks, Role.DECODE)
    assert (state.running_requests, state.queued_requests, state.kv_tokens) == (5, 1, 38)
    assert math.isnan(state.clock_mhz)
    with pytest.raises(ValueError, match="unknown form"):
        state_of([{"nothing": 1}], Role.DECODE)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ("FillUp", "ByRole")),
        ({"policy": "voltana-v0.1"}, ("RandomRouter", "TileAware")),
        (
            {"prefill_router": "random", "decode_router": "round-robin"},
            ("RandomRouter", "RoundRobin"),
        ),
        ({"decode_router": "ecoroute"}, ("FillUp", "EcoRoute")),
        ({"policy": "voltana.routers.round_robin:RoundRobin"}, ("RoundRobin", "RoundRobin")),
        ({"decode_router": "voltana.routers.fill_up:FillUp"}, ("FillUp", "FillUp")),
    ],
)
def test_routers_come_from_policies_names_and_users(
    settings: dict[str, str], names: tuple[str, str]
) -> None:
    made = make_routers(RouterTable(**settings))
    assert tuple(type(router).__name__ for router in made) == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "voltanna"}, "Did you mean 'voltana'"),
        ({"decode_router": "eco"}, "unknown decode_router 'eco'"),
        ({"decode_router": "nowhere:Router"}, "cannot be imported"),
    ],
)
def test_wrong_routers_are_refused_with_a_remedy(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_routers(RouterTable(**settings))


def test_the_default_decode_router_consolidates_on_what_agents_publish() -> None:
    bench = Bench(get_policy("voltana").decode_router(0))
    for number in range(20):
        told(bench, (number, 0), whole_facts())
        chosen = bench.choose()
        bench.book(number, chosen)
        assert chosen == "d0"
    assert bench.leg.wants.missing == {}
    assert bench.leg.wants.lacking_choices == 0


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ({"power": None}, "power model"),
        ({"predictor": None}, "latency model"),
        ({"levels_mhz": ()}, "levels"),
        ({"budget_s": math.inf}, "latency budget"),
        ({"limits": LIMITS_UNKNOWN}, "KV capacity"),
    ],
)
def test_a_router_that_lacks_what_it_needs_says_so_once_and_when_that_changes(
    without: dict[str, Any], named: str
) -> None:
    bench = Bench(get_policy("voltana").decode_router(0))
    with structlog.testing.capture_logs() as logs:
        bench.leg.wants._log = structlog.get_logger()
        for made in (whole_facts(**without), whole_facts(**without), whole_facts(), whole_facts()):
            for _ in range(5):
                told(bench, (1, 1), made)
                bench.choose()
                bench.time.advance(0.01)
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert logs[0]["missing"] == {"d0": [named], "d1": [named]}
    assert "MarginalEnergy" in logs[0]["router"]
    assert bench.leg.wants.lacking_choices == 10
    assert bench.leg.wants.missing == {}


def test_what_is_known_of_instances_that_are_not_shown_stands() -> None:
    bench = Bench(get_policy("voltana").decode_router(0))
    third = Backend(BackendTable(name="d2", role="decode", url="http://h:9"), RouterTable())
    third.passed_check()
    bench.leg._backends += (third,)
    with structlog.testing.capture_logs() as logs:
        bench.leg.wants._log = structlog.get_logger()
        for _ in range(4):
            for avoid in (frozenset(), frozenset({"d1"})):
                told(bench, (1, 1), whole_facts(power=None))
                state = InstanceState(clock_mhz=1200.0)
                at_s = bench.time.now_s()
                report = Report(state=state, sampled_s=at_s, source=FEED, facts=whole_facts())
                bench.reports.put("d2", report)
                bench.choose(avoid=avoid)
    assert len(logs) == 1
    assert set(bench.leg.wants.missing) == {"d0", "d1"}


def test_status_and_metrics_tell_what_a_router_lacks() -> None:
    async def check() -> None:
        async with cluster(prefill=1, decode=2, decode_router=None) as pd, asyncio.timeout(60):
            await pd.post("/generate", {"text": "a"})
            routing = (await pd.ask_admin("GET", "/router/status"))[1]["routing"]
            lacks = routing["decode"]["missing"]
            assert set(lacks) == {"decode-0", "decode-1"}
            assert "power model" in lacks["decode-0"]
            assert routing["decode"]["choices_without"] == 1
            assert "power model" in routing["decode"]["needs"]
            assert routing["prefill"]["missing"] == {}  # of one server there is no choice
            metrics = (await pd.ask_admin("GET", "/metrics"))[1]
            line = 'voltana_router_missing{backend="decode-0",need="power model",role="decode"} 1.0'
            assert line in metrics
            assert 'voltana_router_choices_without_total{role="decode"} 1.0' in metrics

    asyncio.run(check())
