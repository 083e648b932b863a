"""Attacks on the account beside an engine, each of which got round it once."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from agent_steps import account, finish, iterate, kept_file, launch, restarted, served_of
from agent_world import promising_world, served
from fake_scheduler import FakeEngine
from killed_agent import ENGINE, LOAD, SLO

from voltana.errors import ConfigError
from voltana.predictors.conformal import Conformal
from voltana.promise import Margin, MarginPart, Promise
from voltana.serving.agent.guarantee import Guarantee
from voltana.serving.agent.metrics import render
from voltana.serving.agent.open_decisions import MOST_OPEN, OpenDecisions
from voltana.serving.agent.token_gaps import TokenGaps
from voltana.serving.agent.two_slots import SLOT_BYTES, TwoSlots
from voltana.slo import Slo
from voltana.values import Decision, Forecast, Status
from voltana_ring.layout import Kind


@pytest.fixture
def world(tmp_path):
    with promising_world(tmp_path, SLO, ENGINE, says_idle=True) as made:
        yield made


def unlabelled(world):
    return served(world.group).guarantee.unlabelled()


def stalled(world, stall_s):
    """An iteration whose launch the host delays; the device takes what it always does."""
    world.time.advance(stall_s)
    return iterate(world)


def test_a_stall_of_the_host_over_a_restart_is_a_violation(world):
    """The result before it was read by the agent that is gone."""
    for _ in range(3):
        iterate(world)
    world.time.advance(0.05)
    launch_s, decision = launch(world)
    assert decision.status is Status.CERTIFIED
    again = restarted(world, "voltana")
    world.time.advance(0.005)
    world.engine.finish(LOAD, launch_s, 0.005)
    again.drain()
    assert served_of(again).guarantee.account()["violated"] == 1.0
    again.close()


def test_a_kill_between_a_decision_and_its_write_counts_what_may_have_been_certified(world):
    iterate(world)
    decided = served(world.group).guarantee.certified
    world.engine.launch(LOAD)
    found = served(world.group)
    found.ring_loop.take(found.reader.drain())  # decided and applied, and nothing is written
    assert found.guarantee.certified == decided + 1
    again = restarted(world, "voltana")
    assert served_of(again).guarantee.certified == decided + 1
    assert served_of(again).guarantee.unlabelled() == {"restart": 1}
    again.close()


@pytest.mark.parametrize("stall_s", [0.05, 0.15, 5.0])
def test_an_engine_that_says_when_it_idles_stalls_while_it_says_nothing(world, stall_s):
    """One that is never idle has not said so yet: a stall must not pass for it."""
    for _ in range(3):
        iterate(world)
    assert stalled(world, stall_s).status is Status.CERTIFIED
    assert account(world)["violated"] == 1.0
    world.engine.idle()
    stalled(world, stall_s)
    assert account(world)["violated"] == 1.0


def test_the_gap_over_lost_records_is_no_latency_and_may_hide_a_violation(world):
    for _ in range(3):
        iterate(world)
    for _ in range(5):  # nobody hears of their ends
        launch(world)
        world.time.advance(0.1)
    decision = iterate(world)
    assert decision.status is Status.CERTIFIED
    assert unlabelled(world) == {"record lost": 6}
    assert account(world)["violated"] == 0.0
    assert served(world.group).ring_loop.account.latency_s(100) == pytest.approx(0.005)
    launch(world)
    iterate(world, 0.1)  # on the device alone it is too late
    assert account(world)["violated"] == 1.0


def test_an_iteration_that_is_told_twice_is_counted_twice_and_scored_once(world):
    launch_s, _ = launch(world)
    world.engine._write(Kind.LAUNCHED, LOAD, launch_s)
    world.group.drain()
    finish(world, launch_s)
    seen = world.group.figures()["guarantee"]
    assert seen["decided"] == 2
    assert seen["unlabelled"] == {"record lost": 1}
    assert seen["certified"] + seen["elsewhere"] + seen["unsettled"] == 1.0


def raises(*args, **options):
    raise RuntimeError("a user's code")


class Planner:
    plan = staticmethod(raises)


class TestUsersCodeThatFails:
    def test_a_plan_that_fails_loses_no_label(self, world):
        served(world.group).control._plans = Planner()
        iterate(world, 0.1)
        assert account(world)["violated"] == 1.0
        assert "a user's code" in served(world.group).ring_loop.error

    def test_a_predictor_that_fails_around_the_guarantee_is_named_as_the_cause(self, world):
        launch_s, _ = launch(world)
        wrapped = type("Wrapper", (), {"learn": raises})()
        wrapped.predictor = served(world.group).control.predictor
        served(world.group).control.predictor = wrapped
        finish(world, launch_s, 0.1)
        assert unlabelled(world) == {"learning failed": 1}
        assert account(world)["refused"] == 0

    def test_one_that_fails_below_it_has_its_label_scored(self, world):
        launch_s, _ = launch(world)
        served(world.group).control.predictor.predictor.learn = raises
        finish(world, launch_s, 0.1)
        assert account(world)["violated"] == 1.0
        assert unlabelled(world) == {}
        assert account(world)["refused"] == 0

    def test_a_policy_that_came_in_between_cannot_lose_what_was_promised(self, world):
        launch_s, _ = launch(world)
        other = type("Other", (), {"learn": raises})()
        served(world.group).control.predictor = other
        finish(world, launch_s, 0.1)
        assert account(world)["violated"] == 1.0


def test_a_label_is_scored_where_it_was_promised_and_nowhere_else(world):
    """A policy with a guarantee of its own came in between."""
    launch_s, _ = launch(world)
    promised = served(world.group).control.predictor
    other = Conformal(promised.predictor, promised.statement, first=0.15)
    served(world.group).control.predictor = other
    finish(world, launch_s, 0.1)
    assert promised.account()["violated"] == 1.0
    assert not any(other.account()[name] for name in ("certified", "missed", "refused"))


def many_levels(number):
    clocks = np.linspace(210.0, 1980.0, 200)
    part = MarginPart(group="decode", quantile=1 / 3, certifiable=True)
    return Decision(
        clock_mhz=1980.0, reason="", status=Status.CERTIFIED, budget_s=0.02,
        forecast=Forecast(
            clocks_mhz=clocks, mean_s=1 / clocks, upper_s=2 / clocks,
            margin=Margin(parts=(part,), offset_s=0.005),
        ),
        promise=Promise(
            issuer="decode-0@" + "f" * 32, sequence=number, in_force_mhz=1 / 3, fastest_mhz=1980.0
        ),
    )  # fmt: skip


def test_as_many_open_decisions_as_may_be_are_kept_at_two_hundred_levels(world, tmp_path):
    """A state that does not fit its slot would be that of some time ago."""
    found = served(world.group)
    opened = OpenDecisions()
    for number in range(MOST_OPEN + 10):
        opened.add(number, many_levels(number), found.predictor)
    assert unlabelled(world) == {"too many open": 10}
    for leg in ("ttft", "itl"):
        ledger = getattr(found.guarantee.requests.promises, leg)
        for number in range(3000):
            ledger.arrive(
                2**63 + number, expected_s=1e-3, left_s=1 / 3, now_s=1e5 / 3, begun_s=1e5 / 3,
                threshold_s=1 / 3,
            )  # fmt: skip
    found.guarantee.keep(found.reader, opened, TokenGaps())
    assert found.guarantee.state == "new"
    assert len(found.guarantee._slots.read()) < 0.75 * SLOT_BYTES


class TestDisk:
    def test_a_write_that_is_cut_short_leaves_the_last_whole_one(self, tmp_path, monkeypatch):
        slots = TwoSlots(tmp_path / "a.guarantee")
        slots.write(b"first" * 100)
        slots.write(b"second" * 100)
        write = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda file, raw, at: write(file, raw[:40], at))
            for _ in range(3):
                with pytest.raises(OSError, match="no room"):
                    slots.write(b"third" * 100)
        assert TwoSlots(slots.path).read() == b"second" * 100
        slots.write(b"fourth")
        assert TwoSlots(slots.path).read() == b"fourth"

    def test_while_nothing_can_be_kept_the_status_says_so(self, world, monkeypatch):
        iterate(world)
        slots = served(world.group).guarantee._slots
        with monkeypatch.context() as patch:
            patch.setattr(slots, "write", lambda text: (_ for _ in ()).throw(OSError("full")))
            iterate(world)
            assert world.group.figures()["guarantee"]["state"] == "damaged: cannot be kept: full"
            assert world.group.doubt == "the account is damaged: cannot be kept: full"
        iterate(world)
        assert world.group.doubt == ""


def test_the_file_of_another_stack_is_not_taken_under_this_name(world):
    for _ in range(30):
        iterate(world)
    path = kept_file(world)
    world.group.close()
    raw = path.read_bytes()
    path.unlink()
    world.engine.close()
    world.engine = FakeEngine(
        world.config.agent.rings, "decode-0", world.time.now_s, model="other", says_idle=True
    )
    other = restarted(world, "voltana")
    name = kept_file(world)
    other.close()
    name.write_bytes(raw)
    again = restarted(world, "voltana")
    assert served_of(again).guarantee.restored.startswith("damaged")
    assert served_of(again).guarantee.account().get("certified", 0.0) == 0.0
    again.close()


@pytest.mark.parametrize("gaps", [{}, {"ready_s": math.nan}, [], {"ready_s": "1"}])
def test_times_that_are_none_are_set_aside_with_their_file(tmp_path, world, gaps):
    iterate(world)
    world.group.close()
    slots = TwoSlots(kept_file(world))
    values = json.loads(slots.read()) | {"gaps": gaps}
    for _ in range(2):
        slots.write(json.dumps(values).encode())
    slots.close()
    assert Guarantee(kept_file(world)).restored.startswith("damaged")


def test_every_certified_decision_is_in_the_status_once_though_others_hit_elsewhere(world):
    """Another rank runs the device faster: hits of what only the margin blocked are elsewhere."""
    control = served(world.group).control
    tracker = control.predictor._book.tracker("decode")
    iterate(world)
    history = served(world.group).ring_loop._sensor.history
    history.mean_mhz = lambda begin_s, end_s: math.nan
    tracker.quantile = tracker.statement.q_hi  # nothing may be certified for now
    for _ in range(400):
        iterate(world, 0.0005)
    seen = world.group.figures()["guarantee"]
    assert seen["elsewhere_blocked"] > 0
    scored = seen["certified"] + seen["elsewhere"] - seen["elsewhere_blocked"] + seen["unsettled"]
    assert scored + seen["lost"] + seen["in_flight"] == seen["decided"] > 0
    text = render({"instance": "decode-0", "guarantee": seen})[0].decode()
    assert "voltana_agent_guarantee_elsewhere_blocked_total{" in text


@pytest.mark.parametrize("hours", [1.0, 24.0])
def test_hours_of_idling_are_no_gap_and_certificates_are_there_at_once(world, hours):
    for _ in range(20):
        iterate(world)
    world.engine.idle()
    for _ in range(10):
        world.time.advance(360.0 * hours)
        world.group.tick(0.2)
    assert iterate(world).status is Status.CERTIFIED
    assert account(world)["violated"] == 0.0


def test_times_of_an_engine_that_jump_ahead_and_back_keep_nothing_from_being_planned(world):
    control = served(world.group).control
    planned = []
    control._plans = type("Plans", (), {"plan": staticmethod(planned.append)})()
    iterate(world)
    world.engine._write(Kind.FINISHED, LOAD, 9e9, 9e9, 0.005)
    world.group.drain()
    before = len(planned)
    for _ in range(100):
        iterate(world)
    assert len(planned) > before


def test_a_time_that_is_none_plans_nothing(world):
    control = served(world.group).control
    planned = []
    control._plans = type("Plans", (), {"plan": staticmethod(planned.append)})()
    for _ in range(5):
        launch_s, _ = launch(world)
        world.engine._write(Kind.FINISHED, LOAD, launch_s, math.nan, 0.005)
        world.group.drain()
    assert planned == []


IMPOSSIBLE = {
    "more decisions than can be counted": lambda v: v.update(decisions=1e300),
    "a weight that is none": lambda v: v["open"][0][2].update(weight=math.nan),
    "a weight below nothing": lambda v: v["open"][0][2].update(weight=-5.0),
    "a weight that is not allowed": lambda v: v["open"][0][2].update(weight=1e9),
    "clocks in no order": lambda v: v["open"][0][2]["clocks_mhz"].reverse(),
    "a clock that is none": lambda v: v["open"][0][2]["clocks_mhz"].__setitem__(0, math.nan),
    "an offset that is none": lambda v: v["open"][0][2].update(offset_s=math.nan),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_state_that_no_agent_wrote_ends_nothing_and_poisons_nothing(world, what):
    for _ in range(3):
        iterate(world)
    launch_s, _ = launch(world)
    path = kept_file(world)
    world.group.close()
    slots = TwoSlots(path)
    values = json.loads(slots.read())
    IMPOSSIBLE[what](values)
    for _ in range(2):
        slots.write(json.dumps(values).encode())
    slots.close()
    world.group = restarted(world, "voltana")
    finish(world, launch_s)
    for _ in range(5):
        assert iterate(world).status is Status.CERTIFIED
    found = served(world.group)
    seen = found.guarantee.account()
    assert all(0.0 <= value <= 100.0 for value in seen.values())
    if what == "a weight that is not allowed":
        assert found.guarantee.unlabelled() == {"restart": 1}
    else:
        assert found.guarantee.restored.startswith("damaged")


def test_a_policy_that_one_rank_cannot_run_changes_nothing_of_what_the_others_promise(
    world, monkeypatch
):
    second = FakeEngine(
        world.config.agent.rings, "decode-0", world.time.now_s, rank="@dp1.pp0.tp0", says_idle=True
    )
    world.group.scan()
    iterate(world)
    kept = [(s, s.guarantee.requests.promises.loop) for s in world.group._served.values()]
    build, built = type(world.group._workshop).build, []

    def build_one(workshop, *args):
        built.append(args)
        if len(built) == len(kept):
            raise ConfigError("one rank is another")
        return build(workshop, *args)

    monkeypatch.setattr(type(world.group._workshop), "build", build_one)
    slo = world.group.settings.slo
    with pytest.raises(ConfigError):
        world.group.set_slo(Slo(ttft_s=9.0, itl_s=9.0))
    for found, loop in kept:
        assert found.guarantee.requests.promises.loop is loop is found.control
        assert found.guarantee.requests.promises.slo == slo
        assert found.guarantee._issuers == [found.control.predictor]
    second.close()
