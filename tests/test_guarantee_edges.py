"""Edges that generated mutants lived on: what is equal counts, what is refused, what is usual."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pytest

from tests.guarantee_steps import LEVELS, LOAD, issued, mean_at, one, told
from tests.honest import HonestActuator
from tests.mutants import QUICK, Frozen
from tests.test_loop import Board, Stub
from tests.test_planning import forecast
from voltana.cluster.promised_requests import FIRST, OFFSET_S, REQUESTS, PromisedRequests
from voltana.errors import ConfigError
from voltana.in_force import LAG_S, NEAR, SETTLED
from voltana.loop import PLAN_PERIOD_S, ControlLoop
from voltana.planning import (
    GROWTH_TOKENS,
    certified_or_fastest,
    load_with,
    memory_tokens,
    settle,
)
from voltana.predictors.conformal import Conformal
from voltana.predictors.conformal.room import MOST, most_within
from voltana.promise import Margin, MarginPart, Statement
from voltana.slo_reserve import SloReserve
from voltana.timebase import ManualTime
from voltana.values import (
    Binding,
    Candidate,
    Decision,
    Domain,
    InstanceState,
    Load,
    Outcome,
    Request,
    Reservation,
    Role,
    Status,
)


def test_the_numbers_that_hold_where_none_are_given():
    """Those of docs/guarantee.md."""
    assert dataclasses.asdict(Statement()) == {
        "alpha": 0.01, "gamma": 0.02, "decay": 0.0, "decay_labels": 100, "floor": 0.01,
        "q_lo": 0.0, "q_cert": 1.0, "delay": 8, "max_weight": 1.0,
    }  # fmt: skip
    part = MarginPart(group="g", quantile=0.1, certifiable=True)
    assert (part.from_mhz, part.updates) == (0.0, 0)
    assert Margin(parts=(part,), offset_s=0.005).weight == 1.0
    assert SloReserve(0.05).rho == 0.7
    assert SloReserve(0.05).bound() == pytest.approx((0.7 - 0.05) / 0.005)
    assert Conformal(Frozen()).margin(LOAD).offset_s == 0.005
    assert (REQUESTS.alpha, REQUESTS.gamma, REQUESTS.q_cert, REQUESTS.delay) == (
        0.01, 0.05, 0.4, 511,
    )  # fmt: skip
    assert (FIRST, OFFSET_S, GROWTH_TOKENS) == (0.15, 0.005, 600.0)
    assert (LAG_S, SETTLED, NEAR) == (0.5, 0.02, 0.005)


@pytest.mark.parametrize(
    "build",
    [
        *(lambda a=a: SloReserve(a) for a in (0.0, 1.0, math.nan)),
        *(lambda e=e: SloReserve(0.05, eta=e) for e in (0.0, 1.0)),
        *(lambda m=m: SloReserve(0.05, most=m) for m in (0.0, 1.1)),
        *(lambda v=v: SloReserve(0.05, least=v) for v in (0.0, 1.1)),
        *(lambda f=f: SloReserve(0.05, first=f) for f in (0.01, 1.1)),
        *(lambda e=e: one(level_edges_mhz=(e,)) for e in (0.0, math.inf, -1.0)),
        *(lambda f=f: one(first=f) for f in (-1.0, math.inf, math.nan)),
        *(lambda o=o: one(offset_s=o) for o in (0.0, math.inf)),
        *(lambda q=q: one().widen(q) for q in (-0.1, math.inf)),
        lambda: one().widen(0.1, labels=-1),
    ],
)
def test_what_lies_on_an_open_end_is_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_what_lies_on_a_closed_end_is_taken():
    assert SloReserve(0.05, most=1.0, least=1.0, first=1.0).rho == 1.0
    assert one(level_edges_mhz=(1.0,)).margin(LOAD).parts[1].from_mhz == 1.0
    one().widen(0.0, labels=0)


def test_no_labels_widen_nothing():
    made = one()
    made.widen(0.4, labels=0)
    assert made.forecast(LOAD, LEVELS).upper_s == pytest.approx(
        one().forecast(LOAD, LEVELS).upper_s
    )
    assert made.snapshot().widened == 0.0


@pytest.mark.parametrize("labels", [1, 3])
def test_widening_ends_after_its_labels(labels):
    made = one()
    made.widen(0.4, labels=labels)
    for number in range(labels):
        assert made.snapshot().widened == 0.4
        told(made, issued(made, number=number + 1), 0.01, 1410.0)
    assert made.snapshot().widened == 0.0


class Reopened(Frozen):
    def __init__(self):
        super().__init__()
        self.asked = []

    def reopen(self, factor, relative_error):
        self.asked.append((factor, relative_error))


def test_an_alarm_of_drift_reaches_the_predictor_below():
    below = Reopened()
    Conformal(below, QUICK, first=0.15).reopen(7.0, 0.2)
    assert below.asked == [(7.0, 0.2)]


@pytest.mark.parametrize("latency_s", [1e-4, 0.005, 0.0099])
def test_a_short_latency_is_a_label(latency_s):
    made = one()
    decision = issued(made)
    seen = told(made, decision, latency_s, decision.promise.in_force_mhz)
    assert (seen["certified"], seen["lost"]) == (1.0, 0.0)


@pytest.mark.parametrize(("budget", "blocked"), [(1.0, 1.0), (0.9999, 0.0)])
def test_a_mean_that_just_fits_is_blocked_by_the_margin_alone(budget, blocked):
    made = one()
    decision = issued(made, budget=budget)
    assert decision.status is Status.SATURATED
    assert told(made, decision, 0.5 * mean_at(1410.0), 1410.0)["blocked"] == blocked


def test_below_the_slowest_clock_of_a_forecast_there_is_no_bound_to_keep():
    made = one()
    seen = told(made, issued(made, budget=1.01), 1e-4, float(LEVELS[0]) - 100.0)
    assert (seen["elsewhere"], seen["blocked"]) == (0.0, 0.0)


def test_a_proposal_without_a_margin_is_given_the_status_and_the_clock_that_hold():
    made = forecast(0.08, 0.05, 0.03)
    clocks = made.clocks_mhz.tolist()
    proposal = Decision(
        clock_mhz=clocks[1], reason="x", status=Status.CERTIFIED, forecast=made, budget_s=0.04
    )

    def settled(clock_mhz):
        return settle(
            proposal, clock_mhz=clock_mhz, achieved_mhz=clock_mhz, fastest_mhz=clocks[-1],
            issuer="i", sequence=1,
        )  # fmt: skip

    assert settled(clocks[1]).status is Status.SATURATED  # it claimed too much
    assert settled(clocks[2]).clock_mhz == clocks[2]
    assert settled(clocks[2]).status is Status.CERTIFIED


def test_where_no_level_is_safe_it_is_the_fastest():
    made = forecast(0.08, 0.05, 0.03)
    decision = certified_or_fastest(made, None, 0.01, Binding.THRESHOLD)
    assert decision.clock_mhz == made.clocks_mhz[-1]
    assert decision.status is Status.SATURATED
    assert decision.reason == "no safe level: fastest"
    assert certified_or_fastest(made, 1, 0.06, Binding.THRESHOLD).reason == "cheapest safe level"


@pytest.mark.parametrize(("in_flight", "requests"), [(0, 3 + 4 + 5), (20, 20)])
def test_memory_is_counted_for_all_that_was_sent_there(in_flight, requests):
    candidate = Candidate(
        instance="d", role=Role.DECODE, levels_mhz=(1410.0,), in_flight=in_flight,
        state=InstanceState(
            running_requests=3, queued_requests=4, kv_tokens=100, queued_tokens=20, clock_mhz=1e3
        ),
        reserved=Reservation(requests=5, prompt_tokens=7),
    )  # fmt: skip
    assert memory_tokens(candidate, 10.0) == 100 + 20 + 7 + 10 * requests


class Planner(Stub):
    def __init__(self):
        super().__init__()
        self.planned = []

    def plan(self, now_s):
        self.planned.append(now_s)


def test_a_controller_that_plans_does_so_once_a_period_when_iterations_end():
    time, controller = ManualTime(100.0), Planner()
    loop = ControlLoop(
        instance="i", domain=Domain(name="i"), controller=controller, actuator=HonestActuator(),
        sensor=Board(time), time=time, levels_mhz=(600.0, 1410.0),
    )  # fmt: skip
    for step in range(101):
        loop.learn(
            None, load=Load.decode(1, 10), latency_s=0.01, clock_mhz=1410.0,
            ended_at_s=100.0 + step * PLAN_PERIOD_S / 10,
        )  # fmt: skip
    assert controller.planned == pytest.approx([100.0 + n * PLAN_PERIOD_S for n in range(11)])


def test_an_outcome_without_a_decision_teaches_and_is_not_scored():
    made = one()
    made.learn(Outcome(load=LOAD, clock_mhz=1e3, latency_s=9.0, ended_at_s=1.0, decision=None))
    assert not any(made.account()[name] for name in ("certified", "unscored", "lost"))
    assert np.isfinite(made.forecast(LOAD, LEVELS).upper_s).all()


def test_the_field_that_is_out_of_range_is_the_one_that_is_named():
    for field, value in {"eta": 1.0, "most": 0.0, "least": 0.0, "first": 0.0}.items():
        with pytest.raises(ConfigError, match=f"{field} = "):
            SloReserve(0.05, **{field: value})


def test_a_prompt_that_joins_attends_to_all_pairs_of_its_tokens():
    request = Request(request_id=1, arrived_at_s=0.0, prompt_tokens=100)
    joined = load_with(Load(), request, Role.PREFILL)
    alone = Load.prefill([(100, 0)])
    assert joined.prefill_attended_pairs == pytest.approx(alone.prefill_attended_pairs)
    assert joined.prefill_tokens == 100


def test_the_longest_delay_is_that_of_any_group():
    made = one()
    assert made.longest_delay == 0
    held = issued(made, number=0)
    for number in range(1, 8):
        told(made, issued(made, number=number), 1e-6, 1410.0)
    told(made, held, 1e-6, 1410.0)
    made._book.tracker("another")  # to which nothing was late
    assert made.longest_delay == 7


def test_a_request_that_takes_all_that_is_left_fits_and_is_blocked_by_the_margin_alone():
    ledger = PromisedRequests()
    assert not ledger.arrive(1, expected_s=0.5, left_s=0.5)
    ledger.end(1, missed=False)
    assert ledger.account()["blocked"] == 1.0


def test_a_request_whose_tokens_came_all_at_once_is_not_late():
    ledger = PromisedRequests()
    assert ledger.arrive(1, expected_s=0.1, left_s=1.0, begun_s=10.0, threshold_s=0.5)
    assert not ledger.late(1, 10.0, parts=7)
    assert ledger.late(1, math.nextafter(10.0, 0.0), parts=7)


class Line(NamedTuple):
    """A mean that grows with the KV tokens."""

    fixed_s: float
    token_s: float

    def mean_s(self, tokens):
        return self.fixed_s + self.token_s * tokens


@pytest.mark.parametrize(
    ("line", "quantile", "budget_s", "room"),
    [
        (Line(1e-3, 0.0), 0.1, 0.05, MOST),  # tokens that cost nothing measurable
        (Line(0.1, 0.0), 0.1, 0.05, -1),
        (Line(1e-3, -1e-9), 0.1, 0.05, MOST),
        (Line(1e-3, 1e-6), 0.1, -math.inf, -1),
        (Line(1e-3, 1e-6), math.nan, 0.05, -1),
        (Line(math.nan, 1e-6), 0.1, 0.05, -1),
        (Line(math.inf, 1e-6), 0.1, 0.05, -1),
        (Line(1e-3, 5e-324), 0.1, 0.05, MOST),
    ],
)
def test_there_is_room_or_none_on_any_line(line, quantile, budget_s, room):
    assert most_within(line, quantile, 0.005, budget_s) == room
