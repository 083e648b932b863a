"""Feeds, snapshots and what is planned on them."""

from __future__ import annotations

import asyncio
import math
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from router_cluster import cluster, until

from voltana.cluster.candidates import InstanceFacts
from voltana.cluster.ledger import Entry, Ledger
from voltana.errors import ConfigError
from voltana.policies.named import get_policy
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.conformal import BySize, ConformalSnapshot, by_phase
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.predictors.tables import TablePredictor
from voltana.serving.feed import FeedPublisher
from voltana.serving.feed_message import STATE_FIELDS, VERSION, FeedMessage, parse_message
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.feeds import FeedFollower, _Share
from voltana.serving.router.pool import Backend
from voltana.serving.router.problem import Problem
from voltana.serving.router.reports import FEED, LOADS, Report, Reports
from voltana.serving.router.routers import make_routers, own_modules
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.serving.snapshots import (
    decode_power,
    decode_snapshot,
    encode_power,
    encode_snapshot,
)
from voltana.testing.samples import LinearSnapshot, outcomes
from voltana.timebase import ManualTime, MonotonicTime
from voltana.values import Candidate, Exposure, InstanceState, Load, Request, Reservation, Role
from voltana_sglang.dialect.loads import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.ports import Router
    from voltana.values import FloatArray, Forecast

LEVELS = (1005.0, 1200.0, 1410.0)
CLOCKS = np.array(LEVELS)
LOADS_TO_TRY = (Load.decode(16, 9000), Load.prefill([(512, 0)]), Load.prefill([(5000, 0)]))


def learned() -> EcoPred:
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in outcomes(200):
        predictor.learn(outcome)
    return predictor


def conformal(group: Callable[[Load], str]) -> ConformalSnapshot:
    return ConformalSnapshot(
        predictor=learned().snapshot(),
        quantiles={"decode": 0.1, "": 0.3},
        q_cert=0.5,
        widened=0.0,
        offset_s=0.001,
        group=group,
        edges_mhz=(1100.0,),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: learned().snapshot(),
        lambda: conformal(by_phase),
        lambda: conformal(BySize()),
        lambda: TablePredictor(
            clocks_mhz=CLOCKS, prefill=np.full((len(CLOCKS), 2), 0.1), decode=None
        ),
    ],
)
def test_snapshots_forecast_the_same_after_the_wire(make: Callable[[], Any]) -> None:
    snapshot = make()
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(encode_snapshot(snapshot)))
    again = decode_snapshot(wire)
    assert again is not None
    for load in LOADS_TO_TRY:
        one, other = snapshot.forecast(load, CLOCKS), again.forecast(load, CLOCKS)
        np.testing.assert_array_equal(one.mean_s, other.mean_s)
        np.testing.assert_array_equal(one.upper_s, other.upper_s)


@dataclass(frozen=True)
class OwnSnapshot:
    """A user's own."""

    scale: float

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        return LinearSnapshot(scale=self.scale).forecast(load, clocks_mhz)

    def to_dict(self) -> Mapping[str, object]:
        return {"scale": self.scale}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OwnSnapshot:
        return cls(**values)


def test_a_user_s_own_snapshot_needs_its_module_in_the_configuration() -> None:
    module = types.ModuleType("my_policy")
    module.OwnSnapshot = OwnSnapshot  # type: ignore[attr-defined]
    sys.modules["my_policy"] = module
    encoded = encode_snapshot(OwnSnapshot(2.0))
    assert encoded is not None
    encoded["kind"] = "my_policy:OwnSnapshot"
    settings = RouterTable(policy="my_policy:make")
    assert decode_snapshot(encoded, own_modules(settings)) == OwnSnapshot(2.0)
    with pytest.raises(ValueError, match="not named in this configuration"):
        decode_snapshot(encoded, own_modules(RouterTable()))
    with pytest.raises(ValueError, match="not named"):
        decode_snapshot({"kind": "os:system", "values": {}}, own_modules(settings))
    assert encode_snapshot(LinearSnapshot()) is None  # it could not be read again
    del sys.modules["my_policy"]


@pytest.mark.parametrize(
    "wrong", [{"kind": "latency", "values": {}}, {"kind": "latency"}, 5, {"kind": 1, "values": 2}]
)
def test_a_broken_snapshot_is_an_error_not_a_crash(wrong: Any) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        decode_snapshot(wrong)


def facts(**changes: Any) -> InstanceFacts:
    return InstanceFacts(**({"levels_mhz": LEVELS, "budget_s": 0.06} | changes))


STATE = InstanceState(running_requests=5, kv_tokens=600, queued_tokens=70, clock_mhz=1200.0)


class Unsendable:
    """A user's own snapshot that is no plain data."""

    @classmethod
    def from_dict(cls, values: Any) -> Unsendable:
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"model": object()}


def test_a_snapshot_that_cannot_be_sent_is_left_out_and_said_once() -> None:
    publisher = FeedPublisher("inproc://unsendable", "decode-0", MonotonicTime())
    sent: list[bytes] = []
    publisher._socket.close()
    publisher._listeners = types.SimpleNamespace(  # type: ignore[assignment]
        said=lambda: (), send=sent.append
    )
    with structlog.testing.capture_logs() as logs:
        publisher._log = structlog.get_logger()
        for snapshot in (Unsendable(), Unsendable(), learned().snapshot()):
            publisher.publish(STATE, age_s=0.0, facts=facts(predictor=snapshot))
    messages = [parse_message(raw) for raw in sent]
    assert [message and message.state for message in messages] == [STATE] * 3
    sent_facts = [message.facts for message in messages if message and message.facts]
    assert [bool(sent.snapshot) for sent in sent_facts] == [False, False, True]
    assert len(logs) == 1
    publisher.close()


def test_a_feed_reaches_the_router_s_reports() -> None:
    async def check() -> None:
        time = MonotonicTime()
        publisher = FeedPublisher("tcp://127.0.0.1:0", "decode-0", time)
        feeds = {"decode-0": publisher.address}
        # Staler than usual, for a busy machine may hold up this task for longer than 100 ms.
        async with cluster(prefill=1, decode=2, feeds=feeds, stale_after_s=2.0) as pd:
            power = LinearPower().snapshot()
            told = facts(
                predictor=learned().snapshot(),
                power=power,
                kv_capacity_tokens=9e5,
                kv_reserved_tokens=512.0,
            )
            report = None
            for _ in range(200):
                publisher.publish(STATE, age_s=0.01, facts=told)
                await asyncio.sleep(0.01)
                report = pd.service.reports.fresh("decode-0", time.now_s())
                if report is not None and report.facts.predictor is not None:
                    break
            assert report is not None
            assert report.facts.predictor is not None
            assert (report.state, report.source) == (STATE, FEED)
            assert (report.facts.levels_mhz, report.facts.budget_s) == (LEVELS, 0.06)
            assert report.facts.power == power
            assert report.facts.kv_capacity_tokens == 9e5
            assert report.facts.kv_reserved_tokens == 512.0
            assert 0.01 <= time.now_s() - report.sampled_s < 2.0
            status = (await pd.ask_admin("GET", "/router/status"))[1]
            by_name = {b["name"]: b["state"] for b in status["backends"]}
            assert by_name == {"prefill-0": "stale", "decode-0": "feed", "decode-1": "stale"}
            await until(lambda: pd.service.reports.fresh("decode-0", time.now_s()) is None)
        publisher.close()

    asyncio.run(check())


def test_the_example_s_router_chooses_by_what_agents_publish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's MODULE:FACTORY, from feeds over sockets to requests on servers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[4] / "examples"))

    async def check() -> None:
        clocks = {"decode-0": 1400.0, "decode-1": 900.0}
        publishers = {
            name: FeedPublisher("tcp://127.0.0.1:0", name, MonotonicTime()) for name in clocks
        }
        feeds = {name: publisher.address for name, publisher in publishers.items()}

        nothing_learned = facts()

        async def publish() -> None:
            while True:
                for name, publisher in publishers.items():
                    state = InstanceState(clock_mhz=clocks[name])
                    publisher.publish(state, age_s=0.0, facts=nothing_learned)
                await asyncio.sleep(0.005)

        publishing = asyncio.create_task(publish())
        mine = "custom_router:LowestClock"
        # Generous, for a busy machine may hold up the task above for longer than 100 ms.
        settings: dict[str, Any] = {"decode_router": mine, "stale_after_s": 2.0, "feeds": feeds}
        async with cluster(prefill=1, decode=2, **settings) as pd, asyncio.timeout(60):

            def told() -> bool:
                now_s = MonotonicTime().now_s()
                found = {n: pd.service.reports.fresh(n, now_s) for n in clocks}
                return all(r and r.state.clock_mhz == clocks[n] for n, r in found.items())

            for slow in ("decode-1", "decode-0"):
                other = "decode-0" if slow == "decode-1" else "decode-1"
                clocks[slow], clocks[other] = 900.0, 1400.0
                await until(told)
                for _ in range(3):
                    _, _, headers = await pd.post("/generate", {"text": "a"})
                    assert headers["X-Voltana-Decode"] == slow
            assert 'role="decode",source="feed"} 6.0' in (await pd.ask_admin("GET", "/metrics"))[1]
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        for publisher in publishers.values():
            publisher.close()

    asyncio.run(check())


class Wire:
    """Collects what a publisher would send, without a socket."""

    def __init__(self) -> None:
        self.time = ManualTime(100.0)
        self.reports, self.ledger = Reports(0.1), Ledger()
        self.follower = FeedFollower(
            {"decode-0"}, reports=self.reports, ledger=self.ledger, time=self.time
        )

    def message(self, **changes: Any) -> bytes:
        state = [5, 600, 0, 70, 1200.0, 0.0]
        plain = {"v": 1, "instance": "decode-0", "state": state, "age_s": 0.0, "budget_s": 0.06}
        return msgspec.msgpack.encode(plain | {"rooms": []} | changes)


def test_levels_and_snapshot_stand_until_they_are_sent_again() -> None:
    wire = Wire()
    snapshot = encode_snapshot(learned().snapshot())
    wire.follower.take(wire.message(levels_mhz=list(LEVELS), snapshot=snapshot))
    wire.follower.take(wire.message())
    first = wire.reports.fresh("decode-0", 100.0)
    assert first is not None
    assert first.facts.predictor is not None
    assert first.facts.levels_mhz == LEVELS
    wire.follower.take(wire.message(levels_mhz=list(LEVELS), snapshot=snapshot))
    second = wire.reports.fresh("decode-0", 100.0)
    assert second is not None
    assert second.facts.predictor is first.facts.predictor  # not read again every second


def test_unusable_messages_change_nothing() -> None:
    wire = Wire()
    for raw in (
        b"",
        b"\xc1",
        wire.message(v=2),
        wire.message(instance="other"),
        wire.message(state=[1]),
    ):
        wire.follower.take(raw)
    assert wire.reports.fresh("decode-0", 100.0) is None
    wire.follower.take(
        wire.message(levels_mhz=[1.0], snapshot={"kind": "nobody:knows", "values": {}})
    )
    report = wire.reports.fresh("decode-0", 100.0)
    assert report is not None
    assert report.facts.predictor is None


def test_a_message_settles_the_rooms_that_it_names() -> None:
    wire = Wire()
    wire.ledger.book(
        Entry(
            rid="r",
            prefill="p",
            decode="decode-0",
            requests=1,
            prompt_tokens=9,
            sent_s=100.0,
            rooms=(77,),
        )
    )
    wire.follower.take(wire.message())
    assert wire.ledger.reserved("decode-0") == Reservation(requests=1, prompt_tokens=9)
    wire.follower.take(wire.message(rooms=[77]))
    assert wire.ledger.reserved("decode-0").requests == 0


def test_the_publisher_sends_what_changes_seldom_on_change_and_once_a_second() -> None:
    time, sent = ManualTime(), []
    publisher = FeedPublisher("tcp://127.0.0.1:0", "decode-0", time)
    publisher._socket.close()
    publisher._listeners = types.SimpleNamespace(  # type: ignore[assignment]
        said=lambda: (), send=lambda raw: sent.append(parse_message(raw))
    )
    one, other = facts(predictor=learned().snapshot()), facts(predictor=learned().snapshot())
    for told, gap_s in ((one, 0.1), (one, 0.1), (other, 0.1), (other, 1.1), (other, 0.1)):
        publisher.publish(STATE, age_s=0.0, facts=told)
        time.advance(gap_s)
    assert [m.facts is not None for m in sent] == [True, False, True, False, True]


# Choosing.


class Recording:
    """A router that remembers what it was shown."""

    def __init__(self, answer: Any = None) -> None:
        self.shown: list[Candidate] = []
        self.answer = answer

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        self.shown = list(candidates)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or candidates[-1].instance


class Bench:
    """A leg of two decode instances."""

    def __init__(self, router: Router) -> None:
        tables = [
            BackendTable(name=f"d{i}", role="decode", url=f"http://h:{i + 1}") for i in range(2)
        ]
        self.backends = [Backend(table, RouterTable()) for table in tables]
        for backend in self.backends:
            backend.passed_check()
        self.time, self.ledger, self.reports = ManualTime(10.0), Ledger(), Reports(0.1)
        self.counted: list[str] = []
        self.leg = RoleChooser(
            self.backends,
            router,
            ledger=self.ledger,
            reports=self.reports,
            time=self.time,
            count=lambda _role, source: self.counted.append(source),
        )

    def report(self, name: str, running: int, *, age_s: float = 0.0, source: str = FEED) -> None:
        state = InstanceState(running_requests=running, clock_mhz=1200.0)
        at_s = self.time.now_s() - age_s
        self.reports.put(name, Report(state=state, sampled_s=at_s, source=source, facts=facts()))

    def book(self, number: int, name: str) -> None:
        self.ledger.book(
            Entry(
                rid=str(number),
                prefill=None,
                decode=name,
                requests=1,
                prompt_tokens=10,
                sent_s=self.time.now_s(),
            )
        )

    def choose(self, **options: Any) -> str:
        request = Request(request_id=1, arrived_at_s=self.time.now_s(), prompt_tokens=10)
        return self.leg.choose(request, **options).name


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


# What a router needs.


def whole_facts(**changes: Any) -> InstanceFacts:
    model = LinearPower(max_clock_mhz=1410.0)
    given = {
        "predictor": LinearSnapshot(),
        "power": model.snapshot(),
        "kv_capacity_tokens": 400_000.0,
        "kv_reserved_tokens": 512.0,
    }
    return facts(**(given | changes))


def told(bench: Bench, running: tuple[int, int], made: InstanceFacts) -> None:
    for name, requests in zip(("d0", "d1"), running, strict=True):
        state = InstanceState(running_requests=requests, kv_tokens=400 * requests, clock_mhz=1200.0)
        bench.reports.put(
            name, Report(state=state, sampled_s=bench.time.now_s(), source=FEED, facts=made)
        )


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
        ({"kv_capacity_tokens": math.inf}, "KV capacity"),
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


@pytest.mark.parametrize("inner", [LinearPower(), CautiousPower(LinearPower(), start=0.25)])
def test_power_snapshots_forecast_the_same_after_the_wire(inner: Any) -> None:
    inner.learn_window(
        2000.0, [Exposure(load=Load.decode(32, 9000), clock_mhz=1200.0, duration_s=10.0)]
    )
    snapshot = inner.snapshot()
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(encode_power(snapshot)))
    again = decode_power(wire)
    assert again is not None
    assert again.to_dict() == snapshot.to_dict()
    for load in (*LOADS_TO_TRY, Load()):
        np.testing.assert_array_equal(
            again.forecast_w(load, CLOCKS), snapshot.forecast_w(load, CLOCKS)
        )
        np.testing.assert_allclose(again.forecast_w(load, CLOCKS), inner.forecast_w(load, CLOCKS))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "linear-power", "values": {}},
        {"kind": "linear-power", "values": {"max_clock_mhz": 1.0, "coefficients": [1.0]}},
        {"kind": "cautious-power", "values": {"power": None, "excess": 0.1}},
        {"kind": "os:system", "values": {}},
        5,
    ],
)
def test_a_broken_power_snapshot_is_an_error_not_a_crash(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"power|coefficients|not named"):
        decode_power(wrong)


ODD_STATES = [
    [value if name == field else 0 for name in STATE_FIELDS]
    for field in ("running_requests", "kv_tokens", "oldest_wait_s")
    for value in ("8", None, math.nan, -1, math.inf, [1])
]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x91" * 100_000,  # nested deeper than can be read
        *(
            msgspec.msgpack.encode(
                {"v": VERSION, "instance": "d0", "age_s": 0.0, "budget_s": 1.0}
                | {"state": [0] * len(STATE_FIELDS), "rooms": [room]}
            )
            for room in (math.inf, math.nan, "x")
        ),
        *(
            msgspec.msgpack.encode(
                {"v": VERSION, "instance": "d0", "age_s": 0.0, "budget_s": 1.0, "state": state}
            )
            for state in ODD_STATES
        ),
    ],
)
def test_an_odd_message_is_a_value_error_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_message(raw)


def test_a_feed_that_reads_a_new_model_now_and_then_never_rests_long() -> None:
    """Models twice a second, 20 ms each on a busy machine, and 40 states a second in between."""
    share, now_s, rests = _Share(0.0), 0.0, []
    for turn in range(400):
        spent_s = 0.02 if turn % 20 == 0 else 0.0002
        now_s += spent_s
        rests.append(share.rest_s(spent_s, now_s))
        now_s += max(0.025, rests[-1])
    assert max(rests) == 0.0


@given(st.lists(st.floats(1e-5, 0.05), min_size=50, max_size=200))
def test_a_flood_takes_a_twentieth_of_the_loop_whatever_it_consists_of(costs: list[float]) -> None:
    share, now_s = _Share(0.0), 0.0
    for spent_s in costs:
        now_s += spent_s
        now_s += share.rest_s(spent_s, now_s)
    assert sum(costs) <= 0.1 + now_s / 20 + 1e-9
