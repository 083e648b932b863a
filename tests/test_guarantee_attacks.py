"""Attacks on what keeps the guarantee, each of which got round it once; and odd level sets."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from tests.guarantee_steps import LEVELS, LOAD, TYPICAL, issued, mean_at, one, told
from tests.honest import HonestActuator
from tests.mutants import QUICK, Frozen
from tests.test_loop import Board, Stub
from voltana.cluster.promised_requests import MOST_OPEN, PromisedRequests
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.in_force import LAG_S, ClocksInForce
from voltana.loop import ControlLoop
from voltana.planning import settle
from voltana.predictors.conformal import Conformal
from voltana.predictors.conformal.wrapper import UNJUDGED
from voltana.promise import Statement
from voltana.slo import Slo
from voltana.slo_reserve import SloReserve
from voltana.testing import samples
from voltana.timebase import ManualTime
from voltana.values import Decision, Domain, Load, Outcome, Queue, Status

MANY = tuple(float(mhz) for mhz in np.linspace(210.0, 1410.0, 81).round())


class TestCommandsThatAreForgotten:
    def test_a_slow_clock_may_come_into_force_behind_however_many_commands(self):
        """A loop that decides every 5 ms gives more than 64 within the time that one may lag."""
        clocks = ClocksInForce()
        clocks.command(600.0, 10.0)
        for number in range(90):
            now_s = 10.0 + 0.005 * (number + 1)
            clocks.command((1410.0, 1005.0)[number % 2], now_s)
            assert clocks.slowest_mhz(math.nan, now_s) == 600.0
        assert clocks.slowest_mhz(math.nan, 10.0 + 2 * LAG_S) == 1005.0

    def test_even_at_two_thousand_decisions_a_second(self):
        clocks = ClocksInForce()
        clocks.command(600.0, 10.0)
        for number in range(1000):
            clocks.command((1410.0, 1005.0)[number % 2], 10.0 + 0.0004 * number)
        assert clocks.slowest_mhz(math.nan, 10.0 + 0.4) == 600.0


class Planner(Stub):
    def __init__(self):
        super().__init__()
        self.planned = []

    def plan(self, now_s):
        self.planned.append(now_s)


@pytest.mark.parametrize("odd_s", [9e9, 103.0, -9e9, math.nan, math.inf, -math.inf])
def test_a_time_that_jumps_keeps_nothing_from_being_planned_for_good(odd_s):
    time, controller = ManualTime(100.0), Planner()
    loop = ControlLoop(
        instance="i", domain=Domain(name="i"), controller=controller, actuator=HonestActuator(),
        sensor=Board(time), time=time, levels_mhz=(600.0, 1410.0),
    )  # fmt: skip
    for ended_at_s in (100.0, odd_s, *(101.0 + 0.05 * n for n in range(100))):
        loop.learn(None, load=LOAD, latency_s=0.01, clock_mhz=1410.0, ended_at_s=ended_at_s)
    assert len([at_s for at_s in controller.planned if 101.0 <= at_s <= 106.0]) >= 15
    assert len(controller.planned) <= 25


def test_a_batch_that_ended_nobody_knows_when_is_late():
    controller = OptimalAvailable(
        Frozen(), None, LEVELS.tolist(), Slo(ttft_s=0.6, itl_s=0.05), arrivals_s=0.0,
        reserve=SloReserve(0.1, eta=0.05, first=0.75, least=0.4, most=0.95),
    )  # fmt: skip
    load = Load.prefill([(256, 0)])
    seen = dataclasses.replace(
        samples.observation(load, 10.0), queue=Queue(oldest_wait_s=0.0), ended=(), now_s=10.0
    )
    decision = controller.decide(seen)
    assert decision.status is Status.CERTIFIED
    ended = Outcome(
        load=load, clock_mhz=1410.0, latency_s=0.1, ended_at_s=math.nan, decision=decision
    )
    controller.decide(dataclasses.replace(seen, now_s=10.1, ended=(ended,)))
    assert (controller.reserve.requests, controller.reserve.missed) == (1, 1)


def test_a_label_that_fits_nothing_is_counted_with_its_cause():
    """A predictor whose forecast has fewer means than clocks."""
    made = one()
    whole = issued(made)
    forecast = dataclasses.replace(whole.forecast, mean_s=np.array([]))
    broken = dataclasses.replace(whole, forecast=forecast)
    with pytest.raises(IndexError):
        told(made, broken, 0.01, 1410.0)
    assert made.unlabelled == {UNJUDGED: 1}
    made.lose(broken, "once more")
    assert (made.unlabelled, made.refused) == ({UNJUDGED: 1}, 0)


def test_what_is_said_to_be_lost_after_its_label_came_changes_nothing():
    made = one()
    decision = issued(made)
    before = told(made, decision, 1e-6, decision.promise.in_force_mhz)
    made.lose(decision, "record lost")
    assert made.account() == before


@pytest.mark.parametrize("clock_mhz", [math.nan, 1410.0])
def test_hits_elsewhere_of_what_was_not_promised_are_told_apart(clock_mhz):
    made = one(first=QUICK.q_hi)
    decision = issued(made, budget=1.2, clock_mhz=600.0, achieved_mhz=600.0)
    assert decision.status is not Status.CERTIFIED
    account = told(made, decision, 1e-6, clock_mhz)
    assert (account["elsewhere"], account["elsewhere_blocked"]) == (1.0, 1.0)
    certified = one()
    account = told(certified, issued(certified), 1e-6, clock_mhz)
    assert (account["elsewhere"], account["elsewhere_blocked"]) == (1.0, 0.0)


def test_deadlines_of_requests_that_have_ended_do_not_pile_up():
    ledger = PromisedRequests()
    for number in range(20 * MOST_OPEN):
        ledger.arrive(number, expected_s=0.1, left_s=3600.0, now_s=0.001 * number)
        if number >= 100:
            ledger.end(number - 100, missed=False)
    assert ledger.in_flight == 100
    assert len(ledger._deadlines) <= 2 * MOST_OPEN
    ledger.expire(1e6)
    assert (ledger.in_flight, ledger.missed) == (0, 100)


@pytest.mark.parametrize("delay", [0, 9_999])
def test_one_in_flight_or_ten_thousand(delay):
    """What arrives beyond those that are followed is promised nothing."""
    ledger = PromisedRequests(Statement(alpha=0.01, gamma=0.05, q_cert=0.4, delay=delay))
    given = [
        ledger.arrive(number, expected_s=0.1, left_s=1.0, now_s=0.0) for number in range(12_000)
    ]
    assert sum(given) == ledger.in_flight == min(delay + 1, MOST_OPEN)
    ledger.expire(2.0)
    assert ledger.missed == sum(given) <= ledger.bound()
    assert not ledger.arrive("more", expected_s=0.1, left_s=1.0) or delay == 0


ODD_S = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, -1e308]


@pytest.mark.parametrize("expected_s", ODD_S)
@pytest.mark.parametrize("left_s", ODD_S)
def test_times_that_are_none_promise_nothing_and_break_nothing(expected_s, left_s):
    ledger = PromisedRequests()
    for number, now_s in enumerate((math.nan, 0.0, 1e308)):
        if ledger.arrive(number, expected_s=expected_s, left_s=left_s, now_s=now_s):
            assert 0.0 <= expected_s <= left_s < math.inf
    ledger.expire(1.0)
    ledger.expire(math.nan)
    account = ledger.account()
    assert account["promised"] == account["scored"] + account["in_flight"]
    assert all(math.isfinite(value) for value in account.values())
    assert PromisedRequests.restore(json.loads(ledger.to_json())).account() == account


class Device:
    """A loop over a device of any levels, whose sensor may be stuck."""

    def __init__(self, levels_mhz, *, slack=1.6, statement=TYPICAL):
        self.time, self.stuck_mhz = ManualTime(10.0), math.nan
        self.board = Board(self.time)
        self.board.clock_mhz = levels_mhz[-1]
        self.predictor = Conformal(Frozen(), statement, first=0.15)
        slo = Slo(ttft_s=0.6, itl_s=slack * mean_at(levels_mhz[-1]))
        self.loop = ControlLoop(
            instance="d", domain=Domain(name="d"),
            controller=EcoFreq(self.predictor, levels_mhz, slo), actuator=HonestActuator(),
            sensor=self.board, time=self.time, levels_mhz=levels_mhz, predictor=self.predictor,
        )  # fmt: skip

    def run(self, count, slower=lambda number: 1.0):
        statuses = []
        for number in range(count):
            decision = self.loop.decide(LOAD)
            latency_s = mean_at(decision.clock_mhz) * slower(number)
            self.time.advance(latency_s)
            known = decision.clock_mhz if math.isnan(self.stuck_mhz) else self.stuck_mhz
            self.board.clock_mhz = known
            self.loop.learn(
                decision, load=LOAD, latency_s=latency_s, clock_mhz=known,
                ended_at_s=self.time.now_s(),
            )  # fmt: skip
            statuses.append(decision.status)
        return statuses


LEVEL_SETS = {"one": (1410.0,), "two": (600.0, 1410.0), "close": (1395.0, 1410.0), "81": MANY}


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_certificates_return_whatever_levels_there_are_and_where_a_sensor_was_stuck(levels):
    levels_mhz = LEVEL_SETS[levels]
    device = Device(levels_mhz)
    assert device.run(50).count(Status.CERTIFIED) >= 48
    for stuck_mhz in {levels_mhz[0], levels_mhz[-1], 300.0, 5000.0}:
        device.stuck_mhz = stuck_mhz
        device.run(400, lambda number: 40.0 if number % 30 == 0 else 1.0)
        device.stuck_mhz = math.nan
        account = device.predictor.account()
        assert account["violated"] <= account["missed"] <= account["bound"]
        statuses = device.run(500)
        assert Status.CERTIFIED in statuses
        first = statuses.index(Status.CERTIFIED)
        assert statuses[first:].count(Status.CERTIFIED) > 0.9 * (500 - first)


def test_a_forecast_of_another_time_and_load_is_scored_as_it_was_issued():
    """A controller that keeps an old forecast gains nothing: its misses count in full."""
    made = one(dataclasses.replace(QUICK, delay=2))
    old = issued(made, number=0)
    for number in range(1, 60):
        decision = settle(
            Decision(
                clock_mhz=1410.0, reason="", forecast=old.forecast, budget_s=old.budget_s
            ),
            clock_mhz=1410.0, achieved_mhz=1410.0, fastest_mhz=1410.0, issuer="loop",
            sequence=number,
        )  # fmt: skip
        assert decision.status is Status.CERTIFIED
        account = told(made, decision, 10.0, 1410.0)
        assert account["violated"] == account["missed"] == number
        assert account["missed"] <= account["bound"]
    assert account["overdue"] > 0


def test_groups_that_are_all_new_at_once_are_bounded_and_so_are_their_misses():
    """A bound is issued for each while there is room, and then all of them miss."""
    made = one(group=lambda load: f"{load.decode_requests} requests")
    settled = []
    for number in range(1, 1001):
        load = Load.decode(number, 40_000)
        forecast = made.forecast(load, LEVELS)
        decision = settle(
            Decision(
                clock_mhz=1410.0, reason="", forecast=forecast,
                budget_s=2.5 * float(forecast.mean_s[-1]),
            ),
            clock_mhz=1410.0, achieved_mhz=1410.0, fastest_mhz=1410.0, issuer="loop",
            sequence=number,
        )  # fmt: skip
        settled.append((load, decision))
    for load, decision in settled:
        made.learn(
            Outcome(load=load, clock_mhz=1410.0, latency_s=60.0, ended_at_s=1.0, decision=decision)
        )
    account = made.account()
    assert account["certified"] == account["violated"] == account["missed"] == 1000
    assert account["missed"] <= account["bound"]
    assert len(made.groups) <= 65
    again = one(group=lambda load: f"{load.decode_requests} requests")
    again.restore(json.loads(json.dumps(made.to_dict())))
    assert again.account() == account | {"refused": 0}
