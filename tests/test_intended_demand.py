"""What a router intends for its instances: said, carried, believed for a while, and planned for."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
import types

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.test_marginal_energy import Power, decode
from tests.tiled_plant import Tiled, plan, table
from voltana.cluster.candidates import NOTHING_KNOWN, InstanceFacts
from voltana.cluster.intents import tell_intents
from voltana.cluster.ledger import Ledger
from voltana.controllers.demand_envelope import LEARNED_S, DemandEnvelope
from voltana.controllers.mean_context import MeanContext
from voltana.loop import INTENDED_S, ControlLoop
from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.model import load_model
from voltana.plant.simulation import Simulation
from voltana.plant.workload import make_workload
from voltana.policies.named import get_policy
from voltana.ports import Intends, intended_by, offers
from voltana.routers.by_role import ByRole
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.routers.round_robin import RoundRobin
from voltana.routers.viable_batch import ViableBatch
from voltana.serving.feed import FeedPublisher
from voltana.serving.feed_key import FeedKey
from voltana.serving.feed_listeners import seek_feed
from voltana.serving.feed_message import MOST_BYTES, pack_intended, parse_intended
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.feeds import FeedFollower, follow_feeds
from voltana.serving.router.pool import Pool
from voltana.serving.router.reports import FEED, LOADS, Report, Reports
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.slo import Slo
from voltana.testing import samples
from voltana.timebase import ManualTime, MonotonicTime
from voltana.values import Decision, Domain, InstanceState, IntendedDemand, Load, Reading, Role

HALVED = IntendedDemand(pool_per_s=5000.0, share=0.5)
HALF = IntendedDemand(pool_per_s=6000.0, share=0.5)
COSTLY = Power(idle_w=150.0, busy_w=50.0, cubic_w=400.0)
"""Idling costs as much as work: all are awake."""


def asked(name, running, per_s, **changes):
    """A decode instance that measures a demand."""
    made = decode(name, running, COSTLY, **changes)
    state = InstanceState(
        running_requests=running, kv_tokens=300 * running, clock_mhz=1410.0, demand_per_s=per_s
    )
    return samples.candidate(
        0, Role.DECODE, instance=name, state=state, in_flight=running, power=COSTLY,
        levels_mhz=made.levels_mhz, predictor=made.predictor, budget_s=made.budget_s,
    )  # fmt: skip


def test_the_one_that_is_filled_is_to_have_its_share_of_what_all_are_asked_for():
    """Nothing comes to the other yet; both will be awake."""
    intended = MarginalEnergy().intended([asked("a", 60, 4000.0), asked("b", 0, 0.0)])
    assert intended == dict.fromkeys("ab", IntendedDemand(pool_per_s=4000.0, share=0.5))
    assert intended["a"].tokens_per_s == 2000.0


def test_an_instance_that_does_not_measure_leaves_all_to_themselves():
    pool = [asked("a", 60, 4000.0), asked("b", 0, None)]
    assert MarginalEnergy().intended(pool) == {}
    assert MarginalEnergy().intended([asked("a", 0, 0.0), asked("b", 0, 0.0)]) == {}
    assert intended_by(RoundRobin(), pool) == {}


def held_back(intended, held_s):
    return {name: dataclasses.replace(it, held_s=held_s) for name, it in intended.items()}


def test_routers_around_it_pass_on_what_it_intends():
    pool = [asked("a", 60, 4000.0), asked("b", 0, 0.0)]
    inner, told = MarginalEnergy(), {}
    for router in (ViableBatch(inner), ByRole(ViableBatch(inner))):
        assert intended_by(router, pool) == held_back(inner.intended(pool), math.inf)
        tell_intents(router, pool, told.__setitem__, lambda: 0.1)
    assert told == held_back(inner.intended(pool), 0.1)
    tell_intents(RoundRobin(), pool, told.clear, lambda: 0.1)
    assert not offers(RoundRobin(), Intends)


@pytest.mark.parametrize(
    "changes", [{"budget_s": 1e-4}, {"state_age_s": 1.0}], ids=["no batch is viable", "stale"]
)
def test_who_would_not_hold_does_not_say_so(changes):
    """Where one instance does not tell where it stands nothing waits, and bursts need room."""
    known, odd = asked("a", 60, 4000.0), asked("b", 60, 4000.0)
    said = ViableBatch(MarginalEnergy()).intended([known, dataclasses.replace(odd, **changes)])
    assert [demand.held_s for demand in said.values()] == [0.0, 0.0]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.floats(0.0, 1e4)), min_size=1, max_size=6),
    st.floats(1.0, 300.0),
)
def test_what_is_intended_is_all_that_is_asked_for(instances, idle_w):
    power = Power(idle_w=idle_w)
    pool = [
        samples.candidate(
            0, Role.DECODE, instance=f"d{place}", in_flight=running, power=power,
            levels_mhz=(570.0, 990.0, 1410.0), predictor=asked("x", 1, 1.0).predictor,
            budget_s=0.05,
            state=InstanceState(
                running_requests=running, kv_tokens=300 * running, clock_mhz=1410.0,
                demand_per_s=per_s,
            ),
        )
        for place, (running, per_s) in enumerate(instances)
    ]  # fmt: skip
    intended = MarginalEnergy().intended(pool)
    assert intended == MarginalEnergy().intended(pool)
    if intended:
        total = sum(per_s for _, per_s in instances)
        assert sum(i.tokens_per_s for i in intended.values()) == pytest.approx(total)


def test_the_batch_settles_by_what_is_intended():
    made = table(Tiled())
    filled = plan(made, 5000.0, intended=HALVED)
    assert filled.settling == plan(made, 2500.0).settling < plan(made, 5000.0).settling
    asleep = plan(made, 100.0, intended=HALVED)
    assert asleep.settling == filled.settling


def test_the_barrier_keeps_what_comes_meanwhile_as_well():
    made = table(Tiled())
    own, filled = plan(made, 5000.0), plan(made, 5000.0, intended=HALVED)
    assert own.viable_batch == filled.viable_batch
    near = int(own.viable_batch)
    assert filled.lowest(near)[0] == own.lowest(near)[0] > filled.settling


def test_what_comes_while_an_instance_is_filled_is_no_burst():
    envelope, batch, now_s = DemandEnvelope(), 0, 0.0
    while now_s < LEARNED_S:
        envelope.note(batch, now_s)
        batch, now_s = batch + 2, now_s + 0.05
    before = envelope._deviations
    assert envelope.learning >= 3
    for _ in range(40):
        envelope.note(batch, now_s)
        batch, now_s = batch + 8, now_s + 0.05
    assert envelope.broken >= 1
    assert envelope._deviations > before == DemandEnvelope()._deviations


def test_the_context_that_lasts_moves_less_than_that_of_the_moment():
    context, draws = MeanContext(), np.random.default_rng(1)
    assert context.tokens == 0.0
    told = []
    for step in range(400):
        context.note(70, draws.uniform(800.0, 1200.0), step * 0.25)
        told.append(context.tokens)
    assert np.ptp(told[200:]) < 60.0
    assert told[-1] == pytest.approx(1000.0, rel=0.05)
    context.note(70, 1000.0, 0.0)  # time went back
    assert context.tokens > 0.0


class Listening:
    """A controller that notes what its router intends."""

    def __init__(self):
        self.intended = []

    def decide(self, observation):
        self.intended.append(observation.intended)
        return Decision(clock_mhz=1410.0, reason="noted")

    def demand_per_s(self):
        return 7.0


def loop_of(controller, clock):
    sensor = types.SimpleNamespace(
        read=lambda: Reading(at_s=0.0, clock_mhz=1410.0, power_w=1.0, energy_j=0.0)
    )
    actuator = types.SimpleNamespace(apply=lambda _command: None, close=lambda: None)
    return ControlLoop(
        instance="d", domain=Domain(name="d", devices=("0",)), controller=controller,
        actuator=actuator, sensor=sensor, time=clock, levels_mhz=(1410.0,),
    )  # fmt: skip


def test_what_is_intended_holds_for_a_while():
    clock, controller = ManualTime(5.0), Listening()
    loop = loop_of(controller, clock)
    loop.decide(Load())
    loop.intend(HALF)
    loop.decide(Load())
    clock.advance(0.9 * INTENDED_S)
    loop.decide(Load())
    clock.advance(0.2 * INTENDED_S)
    loop.decide(Load())
    assert controller.intended == [None, HALF, HALF, None]
    assert loop.demand_per_s() == 7.0


def test_a_loop_whose_controller_measures_nothing_says_so():
    deciding = types.SimpleNamespace(decide=Listening().decide)
    assert loop_of(deciding, ManualTime(0.0)).demand_per_s() is None


@given(st.floats(0.0, 1e12), st.floats(0.0, 1.0), st.floats(0.0, 1e3))
def test_what_is_said_is_what_is_read(pool_per_s, share, held_s):
    said = IntendedDemand(pool_per_s=pool_per_s, share=share, held_s=held_s)
    assert parse_intended(pack_intended(said)) == said


@pytest.mark.parametrize(
    "raw",
    [
        b"i",
        b"i\xc1",
        b"i\x91\x01",
        b"i\x93\x01\xc0\xc0",
        b"i\x94\x01\xc0\xc0\xc2",
        b"i\x94\x01\x01\x01\xff",
        b"i" + b"\x91" * 4000,
    ],
)
def test_what_is_no_intention_is_an_error_of_that_message(raw):
    with pytest.raises(ValueError, match=r"intends|pool_per_s|held_s"):
        parse_intended(raw)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        parse_intended(pack_intended(IntendedDemand(pool_per_s=1.0, share=share)))


def test_what_is_no_intent_and_other_versions_intend_nothing():
    assert parse_intended(b"\x01") is None
    assert parse_intended(b"\x00topic") is None
    assert parse_intended(b"") is None
    assert parse_intended(b"i\x93\x63\x01\x01") is None


def test_an_agent_hears_on_its_feed_what_a_router_says():
    publisher = FeedPublisher("tcp://127.0.0.1:0", "d", MonotonicTime())
    router = zmq.Context.instance().socket(zmq.DEALER)
    seek_feed(router, MOST_BYTES)
    try:
        router.connect(publisher.address)
        heard, tries = None, 0
        while heard is None and tries < 3000:
            router.send(b"i\xc1")  # what cannot be read keeps nothing from being heard
            router.send(pack_intended(HALF))
            time.sleep(0.01)
            heard, tries = publisher.take_intended(), tries + 1
        assert heard == HALF
    finally:
        router.close()
        publisher.close()


def test_the_first_instance_is_not_hurried_for_what_the_other_will_have():
    """Before, it ran at the fastest clock for the first ten seconds."""
    slo = Slo(ttft_s=0.8, itl_s=0.05)
    spec = ClusterSpec(
        hardware=load_hardware("h200-sxm"), model=load_model("llama-3.1-8b"), slo=slo,
        prefill=2, decode=2,
    )  # fmt: skip
    trace = make_workload("lmsys", rate_rps=90.0, duration_s=8.0, seed=1)
    used_j = {}
    for told in (True, False):
        run = Simulation(spec, get_policy("voltana"), trace, seed=1)
        if not told:
            for instance in run.instances:
                instance.runner.loop.intend = lambda _demand: None
        run.extend_to(8.0)
        used_j[told] = run.energy_j()
    assert used_j[True] < 0.985 * used_j[False]


@pytest.mark.parametrize("key", [None, FeedKey("k" * 32)], ids=["open", "keyed"])
def test_a_router_says_to_agents_what_it_intends_on_their_feeds(key):
    async def check():
        publisher = FeedPublisher("tcp://127.0.0.1:0", "d", MonotonicTime(), key)
        follower = FeedFollower({"d"}, reports=Reports(60.0), ledger=Ledger(), time=MonotonicTime())
        following = asyncio.create_task(follow_feeds({"d": publisher.address}, follower, key))
        try:
            async with asyncio.timeout(60):
                heard = said = None
                while heard is None or said is None:
                    state = InstanceState(
                        queued_tokens=90,
                        clock_mhz=1410.0,
                        demand_per_s=3000.0,
                        ttft_margin=0.2,
                        computing_tokens=80,
                        computing_for_s=0.3,
                    )
                    publisher.publish(state, age_s=0.0, facts=NOTHING_KNOWN)
                    follower.intend("d", HALF)
                    await asyncio.sleep(0.01)
                    heard = publisher.take_intended() or heard
                    said = follower._reports.fresh("d", MonotonicTime().now_s())
                assert heard == HALF
                assert said.state == state
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            publisher.close()

    asyncio.run(check())


@pytest.mark.parametrize("source", [FEED, LOADS])
def test_a_serving_router_tells_intents_that_stand_on_agents_reports(source):
    clock, reports = ManualTime(1.0), Reports(1.0)
    shown = [asked("a", 60, 4000.0), asked("b", 0, 0.0)]
    table_ = RouterTable(
        backends=[
            BackendTable(name=name, role=role, url=f"http://127.0.0.1:{9000 + place}")
            for place, (name, role) in enumerate(
                (("p", "prefill"), ("a", "decode"), ("b", "decode"))
            )
        ]
    )
    ledger, pool = Ledger(), Pool(table_)
    for backend in pool:
        backend.healthy = True
    for made in shown:
        facts = InstanceFacts(
            predictor=made.predictor, power=made.power, levels_mhz=made.levels_mhz, budget_s=0.05
        )
        reports.put(
            made.instance, Report(state=made.state, sampled_s=1.0, source=source, facts=facts)
        )
    told = {}
    for router in (MarginalEnergy(), RoundRobin(), Failing()):
        chooser = RoleChooser(
            pool.of(Role.DECODE), router, ledger=ledger, reports=reports, time=clock,
            count=lambda *_: None,
        )  # fmt: skip
        chooser.tell_intents(told.__setitem__, lambda: 0.1)
    expected = dict.fromkeys("ab", IntendedDemand(pool_per_s=4000.0, share=0.5))
    assert told == (expected if source == FEED else {})


class Failing(RoundRobin):
    """A user's router that fails at saying what it intends."""

    def intended(self, candidates):
        raise ValueError(candidates)
