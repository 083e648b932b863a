"""Ways round the account that an attack found, and mutants that no test caught."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.honest import HonestActuator
from tests.mutants import QUICK, Frozen, bound
from tests.test_loop import Board
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.in_force import LAG_S, ClocksInForce
from voltana.loop import ControlLoop
from voltana.planning import lowest_safe_decision, settle
from voltana.policies.default import PROMISE
from voltana.predictors.conformal import Conformal
from voltana.predictors.conformal.label_ledger import WINDOW, LabelLedger
from voltana.promise import Statement
from voltana.slo import Slo
from voltana.slo_reserve import SloReserve
from voltana.testing import samples
from voltana.testing.guarantee_program import LEVELS_MHZ, Run, Stretch
from voltana.timebase import ManualTime
from voltana.values import Decision, Domain, Limit, Load, Outcome, Queue, Status

LOAD = Load.decode(64, 40_000)
LEVELS = np.array(LEVELS_MHZ)
TYPICAL = Statement(alpha=0.006, gamma=0.02)


def one(statement=QUICK, first=0.15, **options):
    return Conformal(Frozen(), statement, first=first, **options)


def issued(made, *, budget=2.5, clock_mhz=None, achieved_mhz=1410.0, number=1, fastest_mhz=1410.0):
    forecast = made.forecast(LOAD, LEVELS)
    proposal = lowest_safe_decision(forecast, budget * float(forecast.mean_s[-1]))
    return settle(
        proposal, clock_mhz=clock_mhz or proposal.clock_mhz, achieved_mhz=achieved_mhz,
        fastest_mhz=fastest_mhz, issuer="loop", sequence=number,
    )  # fmt: skip


def mean_at(mhz):
    return samples.linear_latency_s(LOAD, mhz)


def told(made, decision, latency_s, clock_mhz):
    made.learn(
        Outcome(
            load=LOAD, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=1.0, decision=decision
        )
    )
    return made.account()


class World:
    """A control loop over a device whose sensor may err, in time that is turned by hand."""

    def __init__(
        self, *, itl_s=None, statement=TYPICAL, reads=lambda mhz: mhz, runs=lambda mhz: mhz
    ):
        self.time = ManualTime(10.0)
        self.board = Board(self.time)
        self.predictor = one(statement)
        self.itl_s = itl_s = itl_s or 1.6 * mean_at(LEVELS_MHZ[-1])
        self.reads, self.runs = reads, runs
        self.loop = ControlLoop(
            instance="d0", domain=Domain(name="d0"),
            controller=EcoFreq(self.predictor, LEVELS_MHZ, Slo(ttft_s=0.6, itl_s=itl_s)),
            actuator=HonestActuator(), sensor=self.board, time=self.time,
            levels_mhz=LEVELS_MHZ, predictor=self.predictor,
        )  # fmt: skip
        self.statuses = []

    def run(self, count, *, slower=lambda number: 1.0):
        """Iterations, each as long as the model expects at the clock that it ran at."""
        for number in range(count):
            decision = self.loop.decide(LOAD)
            runs_mhz = self.runs(decision.clock_mhz)
            latency_s = mean_at(runs_mhz) * slower(number)
            self.time.advance(latency_s)
            self.board.clock_mhz = self.reads(runs_mhz)
            self.loop.learn(
                decision, load=LOAD, latency_s=latency_s, clock_mhz=self.board.clock_mhz,
                ended_at_s=self.time.now_s(),
            )  # fmt: skip
            self.statuses.append(decision.status)
        return self.statuses[-count:]


OFF = {
    "unknown": {"reads": lambda mhz: math.nan},
    "3 % above": {"reads": lambda mhz: 1.03 * mhz},
    "3 % below": {"reads": lambda mhz: 0.97 * mhz, "itl_s": 1.7 * mean_at(1410.0)},
    "the other rank is faster": {"runs": lambda mhz: 1410.0},
}


@pytest.mark.parametrize("off", OFF)
def test_a_sensor_that_is_off_locks_nothing_out_where_stalls_are_rarer_than_alpha(off):
    world = World(**OFF[off])
    statuses = world.run(3000, slower=lambda number: 50.0 if number % 400 == 399 else 1.0)
    assert statuses.count(Status.CERTIFIED) > 0.9 * len(statuses)
    account = world.predictor.account()
    assert account["violated"] <= account["missed"] <= account["bound"]


@pytest.mark.parametrize("off", OFF)
def test_stalls_just_rarer_than_alpha_lock_nothing_out_in_the_long_run(off):
    """They take the margin beyond what certifies, unless hits at whatever clock bring it back."""
    world = World(statement=PROMISE, **OFF[off])
    statuses = world.run(6000, slower=lambda number: 50.0 if number % 200 == 199 else 1.0)
    assert statuses[-2000:].count(Status.CERTIFIED) > 0.9 * 2000
    account = world.predictor.account()
    assert account["missed"] >= 29


@pytest.mark.parametrize("off_mhz", [1.0, 4.0])
def test_a_device_that_does_not_quite_reach_its_clock_certifies(off_mhz):
    lowest = 2.6 * mean_at(1410.0)
    statuses = World(itl_s=lowest, runs=lambda mhz: mhz - off_mhz).run(2000)
    assert statuses.count(Status.CERTIFIED) >= 1990


def test_two_loops_of_one_name_at_one_time_number_for_themselves():
    first, second = World(), World()
    second.predictor = first.predictor
    a, b = first.loop.decide(LOAD).promise, second.loop.decide(LOAD).promise
    assert a.sequence == b.sequence
    assert a.issuer != b.issuer


def test_a_loop_of_a_later_time_numbers_for_itself():
    """As after a restart of the agent, where the ledger of labels would refuse the new ones."""
    world = World()
    later = World()
    later.time.advance(5.0)
    assert world.loop.decide(LOAD).promise.issuer != later.loop.decide(LOAD).promise.issuer


class TestClocksInForce:
    def test_an_actuator_that_lags_by_several_decisions_is_certified_at_its_slowest_clock(self):
        clocks, now_s = ClocksInForce(), 10.0
        for mhz in (1410.0, 600.0, 1410.0, 1410.0):
            clocks.command(mhz, now_s)
            now_s += 0.02
            # All of it is still to come: the device is where it was before.
            slowest = clocks.slowest_mhz(1410.0, now_s)
        assert slowest == 600.0

    def test_what_a_reading_shows_to_be_over_is_over(self):
        clocks = ClocksInForce()
        clocks.command(600.0, 10.0)
        clocks.command(1200.0, 10.01)
        assert clocks.slowest_mhz(600.0, 10.02) == 600.0
        assert clocks.slowest_mhz(900.0, 10.03) == 600.0
        assert clocks.slowest_mhz(1200.0, 10.04) == 1200.0
        assert clocks.slowest_mhz(1100.0, 10.05) == 1100.0

    def test_what_was_replaced_long_ago_is_over_where_nothing_can_be_read(self):
        clocks = ClocksInForce()
        clocks.command(600.0, 10.0)
        clocks.command(1200.0, 10.1)
        assert clocks.slowest_mhz(math.nan, 10.1 + LAG_S) == 600.0
        assert clocks.slowest_mhz(math.nan, 10.2 + LAG_S) == 1200.0

    def test_nothing_is_known_before_the_first_command(self):
        assert ClocksInForce().slowest_mhz(905.0, 1.0) == 905.0


def test_a_loop_certifies_at_a_clock_that_may_still_come_into_force():
    world = World(itl_s=1.2 * mean_at(1410.0))
    world.run(20)
    target = {"mhz": 600.0}
    world.loop.controller = type(
        "Scripted", (), {"decide": lambda self, o: Decision(
            clock_mhz=target["mhz"], reason="", forecast=world.predictor.forecast(o.load, LEVELS),
            budget_s=1.2 * mean_at(1410.0))},
    )()  # fmt: skip
    world.board.clock_mhz = 1410.0  # it lags: nothing has changed yet
    world.loop.decide(LOAD)
    target["mhz"] = 1410.0
    for _ in range(4):
        world.time.advance(0.02)
        decision = world.loop.decide(LOAD)
        assert decision.promise.in_force_mhz == 600.0
        assert decision.status is not Status.CERTIFIED


def test_four_hundred_bad_iterations_cost_no_more_than_a_certified_miss_can():
    """Uncertified misses have nothing to win, and would be paid for hit by hit."""
    world = World()
    world.run(400, slower=lambda number: 100.0)
    (tracker,) = world.predictor.groups.values()
    assert tracker.quantile <= 0.6 + TYPICAL.gamma  # what the budget leaves at the fastest clock
    statuses = world.run(500)
    assert Status.CERTIFIED in statuses


def test_an_uncertified_miss_moves_nothing():
    made = bound(weight=lambda load: 1.0)
    run = Run(made)
    run.play([Stretch(mode="above", length=20, budget=8.0)])
    before = made.groups["decode"].quantile
    assert before > QUICK.q_cert
    run.play([Stretch(mode="above", length=5, budget=2.5)])
    assert made.groups["decode"].quantile == before


def test_a_label_in_time_that_overtakes_may_be_overtaken_by_any_number():
    """K is no multiple of the labels in flight once they overtake: `overdue` counts them."""
    made = one(dataclasses.replace(QUICK, delay=2))
    held = issued(made, number=0)
    for number in range(1, 60):
        told(made, issued(made, number=number), 1e-6, 1410.0)
    account = told(made, held, 1e-6, held.promise.in_force_mhz)
    assert account["overdue"] == 1


class TestWhichLabelsCount:
    def test_a_clock_that_is_15_percent_off_is_not_the_one_that_was_promised_for(self):
        made = one()
        decision = issued(made)
        in_force = decision.promise.in_force_mhz
        account = told(made, decision, mean_at(in_force), 0.85 * in_force)
        assert account["certified"] == 0
        assert account["unsettled"] + account["elsewhere"] == 1

    @pytest.mark.parametrize(("share", "certified"), [(1.019, 1), (1.021, 0), (0.981, 1)])
    def test_two_percent_is_settled(self, share, certified):
        made = one()
        decision = issued(made)
        in_force = decision.promise.in_force_mhz
        account = told(made, decision, 1e-6, share * in_force)
        assert account["certified"] == certified
        assert account["elsewhere"] == 1 - certified

    def test_an_unsettled_hit_earns_no_certified_credit(self):
        made = one()
        decision = issued(made)
        account = told(made, decision, 1e-6, 1410.0)
        assert decision.promise.in_force_mhz < 1300.0
        assert (account["certified"], account["elsewhere"]) == (0, 1)

    def test_what_ran_faster_is_held_against_the_bound_of_that_clock(self):
        """Between the two bounds it is no hit there, and no miss here: no credit."""
        made = one()
        decision = issued(made)
        forecast, in_force = decision.forecast, decision.promise.in_force_mhz
        between_s = (forecast.upper_at(1410.0) + forecast.upper_at(in_force)) / 2
        account = told(made, decision, between_s, 1410.0)
        assert (account["certified"], account["elsewhere"], account["unsettled"]) == (0, 0, 1)

    def test_between_two_clocks_the_bound_is_the_stricter_one(self):
        made = one()
        decision = issued(made)
        level = next(mhz for mhz in LEVELS_MHZ if mhz > 1.1 * decision.promise.in_force_mhz)
        upper_s = decision.forecast.upper_at(level)
        account = told(made, decision, upper_s * 0.9999, 1.1 * level)
        assert account["unsettled"] == 1

    def test_a_certified_miss_counts_at_any_clock(self):
        for clock_mhz in (1410.0, math.nan, 300.0):
            made = one()
            account = told(made, issued(made), 10.0, clock_mhz)
            assert (account["missed"], account["violated"]) == (1, 1)

    def test_violations_are_counted_and_only_those_over_the_budget(self):
        made = one()
        decision = issued(made, budget=8.0)
        over_bound_s = decision.forecast.upper_at(decision.promise.in_force_mhz) * 1.01
        assert over_bound_s < decision.budget_s
        account = told(made, decision, over_bound_s, decision.promise.in_force_mhz)
        assert (account["missed"], account["violated"]) == (1, 0)
        decision = issued(made, budget=8.0, number=2)
        account = told(made, decision, decision.budget_s * 1.01, decision.promise.in_force_mhz)
        assert (account["missed"], account["violated"]) == (2, 1)

    def test_only_the_margin_blocks_where_the_fastest_clock_would_do_not_the_one_asked_for(self):
        made = one(first=QUICK.q_hi)
        decision = issued(made, budget=1.2, clock_mhz=810.0, achieved_mhz=810.0)
        assert decision.forecast.mean_at(810.0) > decision.budget_s
        account = told(made, decision, 1e-6, 810.0)
        assert account["blocked"] == 1

    def test_a_cap_below_the_fastest_level_is_what_overload_is_measured_by(self):
        made = one(first=QUICK.q_hi)
        decision = issued(made, budget=1.2, clock_mhz=810.0, achieved_mhz=810.0, fastest_mhz=810.0)
        account = told(made, decision, 1e-6, 810.0)
        assert (account["blocked"], account["unscored"]) == (0, 1)

    def test_the_loop_names_the_fastest_clock_under_a_cap(self):
        world = World()
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1410.0
        world.loop.set_limit(Limit(source="operator", max_mhz=1100.0))
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1005.0
        world.loop.clear_limit("operator")
        assert world.loop.decide(LOAD).promise.fastest_mhz == 1410.0

    def test_a_label_is_scored_against_the_tracked_margin_not_the_widened_one(self):
        made = one()
        made.widen(0.6, labels=100)
        decision = issued(made, budget=8.0)
        forecast, in_force = decision.forecast, decision.promise.in_force_mhz
        tracked_s = forecast.margin.bound_s(
            forecast.margin.part_at(in_force), forecast.mean_at(in_force)
        )
        between_s = (tracked_s + forecast.upper_at(in_force)) / 2
        assert tracked_s < between_s < forecast.upper_at(in_force)
        assert told(made, decision, between_s, in_force)["missed"] == 1

    def test_a_cold_start_takes_the_largest_score_not_the_second_largest(self):
        made = one(dataclasses.replace(QUICK, alpha=0.2), first=None)
        for number, score in enumerate((0.1, 0.4, 0.2, 0.3)):
            mean_s = mean_at(1410.0)
            decision = issued(made, number=number, budget=8.0, clock_mhz=1410.0)
            told(made, decision, mean_s + score * (mean_s + 0.005), 1410.0)
        assert made.margin(LOAD).parts[0].quantile == pytest.approx(0.4)

    def test_the_ledger_remembers_4096_labels_and_no_fewer(self):
        ledger = LabelLedger()
        assert ledger.admit("loop", 5000)
        assert ledger.admit("loop", 5000 - WINDOW + 1)
        assert not ledger.admit("loop", 5000 - WINDOW + 1)
        assert not ledger.admit("loop", 5000 - WINDOW)
        assert ledger.is_forgotten("loop", 5000 - WINDOW)
        assert WINDOW == 4096


class TestLabelsThatDoNotCome:
    def test_an_unusable_latency_of_a_certified_decision_is_counted_with_its_cause(self):
        made = one()
        for number, latency_s in enumerate((math.nan, 0.0, -1.0, math.inf)):
            told(made, issued(made, number=number), latency_s, 1410.0)
        assert made.unlabelled == {"unusable latency": 4}
        assert made.account()["lost"] == made.lost == 4

    def test_a_label_that_was_given_up_is_refused_if_it_comes_after_all(self):
        made = one()
        decision = issued(made)
        made.lose(decision, "record lost")
        account = told(made, decision, 10.0, 1410.0)
        assert made.unlabelled == {"record lost": 1}
        assert (account["certified"], account["missed"], account["refused"]) == (0, 0, 1)

    def test_one_that_comes_too_late_to_tell_is_counted(self):
        made = one()
        first = issued(made, number=1)
        told(made, issued(made, number=2 + WINDOW), 1e-6, 1410.0)
        told(made, first, 10.0, 1410.0)
        assert made.unlabelled == {"too late": 1}

    def test_an_uncertified_decision_promised_nothing(self):
        made = one()
        made.lose(issued(made, budget=0.5), "record lost")
        assert made.unlabelled == {}


BROKEN = {
    "nan margin": lambda s: s["groups"]["decode"].update(quantile=math.nan),
    "margin over q_hi": lambda s: s["groups"]["decode"].update(quantile=5.0),
    "margin as text": lambda s: s["groups"]["decode"].update(quantile="0.2"),
    "nan start": lambda s: s["groups"]["decode"].update(first=math.nan),
    "nan pooled": lambda s: s["pooled"].update(quantile=math.nan),
    "pooled is missing": lambda s: s.update(pooled=None),
    "nan in the account": lambda s: s["groups"]["decode"]["account"].update(missed=math.nan),
    "less than nothing": lambda s: s["groups"]["decode"]["account"].update(certified=-1.0),
    "more violated than missed": lambda s: s["groups"]["decode"]["account"].update(violated=1e6),
    "infinite updates": lambda s: s["groups"]["decode"].update(updates=math.inf),
    "nan in the causes": lambda s: s.update(unlabelled={"record lost": math.nan}),
    "no causes": lambda s: s.update(unlabelled=[]),
    "nan cold score": lambda s: s.update(cold=[math.nan]),
    "unknown entry": lambda s: s["groups"]["decode"]["account"].update(more=1.0),
    "no groups": lambda s: s.pop("groups"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_state_is_refused_and_changes_nothing(name):
    source, made = bound(), bound()
    Run(source).play([Stretch(mode="miss when low", length=60)])
    state = source.to_dict()
    BROKEN[name](state)
    before = made.to_dict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        made.restore(state)
    assert made.to_dict() == before
    assert made.margin(LOAD).parts[0].certifiable


class TestReserve:
    """The reserve of prefill is scored when a batch ends or its deadline passes, not before."""

    SLO = Slo(ttft_s=0.6, itl_s=0.05)

    def make(self):
        return OptimalAvailable(
            Frozen(), None, LEVELS_MHZ, self.SLO, arrivals_s=0.0,
            reserve=SloReserve(0.1, eta=0.05, first=0.75, least=0.4, most=0.95),
        )  # fmt: skip

    def seen(self, now_s, ended=(), wait_s=0.0):
        load = Load.prefill([(256, 0)])
        return dataclasses.replace(
            samples.observation(load, now_s), queue=Queue(oldest_wait_s=wait_s), ended=ended,
            now_s=now_s,
        )  # fmt: skip

    def end(self, decision, at_s):
        return Outcome(
            load=LOAD, clock_mhz=1410.0, latency_s=0.1, ended_at_s=at_s, decision=decision
        )

    def test_a_decision_ahead_of_an_end_scores_nothing_early(self):
        controller = self.make()
        first = controller.decide(self.seen(10.0))
        assert first.status is Status.CERTIFIED
        controller.decide(self.seen(10.1))
        assert controller.reserve.requests == 0
        controller.decide(self.seen(10.8, (self.end(first, 10.7),)))
        assert (controller.reserve.requests, controller.reserve.missed) == (2, 2)

    def test_late_batches_are_scored_as_late_whatever_is_decided_meanwhile(self):
        controller, kept = self.make(), 0
        for number in range(50):
            now_s = 10.0 + 5 * number
            decision = controller.decide(self.seen(now_s))
            for tick in range(1, 4):
                controller.decide(dataclasses.replace(self.seen(now_s + 0.1 * tick), load=Load()))
            controller.decide(
                dataclasses.replace(
                    self.seen(now_s + 2.0, (self.end(decision, now_s + 1.9),)), load=Load()
                )
            )
            kept = controller.reserve.requests - controller.reserve.missed
        assert controller.reserve.missed > 40
        assert kept == 0

    def test_the_deadline_counts_from_arrival_not_from_the_decision(self):
        controller = self.make()
        waited = controller.decide(self.seen(10.0, wait_s=0.4))
        assert waited.status is Status.CERTIFIED
        controller.decide(self.seen(10.31, (self.end(waited, 10.3),)))
        assert (controller.reserve.requests, controller.reserve.missed) == (1, 1)

    def test_a_batch_in_time_is_kept(self):
        controller = self.make()
        first = controller.decide(self.seen(10.0, wait_s=0.4))
        controller.decide(self.seen(10.9, (self.end(first, 10.15),)))
        assert (controller.reserve.requests, controller.reserve.missed) == (1, 0)


def test_renewing_decides_nothing_and_keeps_to_limits():
    world = World()
    decided = []
    inner = world.loop.controller
    world.loop.controller = type(
        "Counting", (), {"decide": lambda self, o: (decided.append(o), inner.decide(o))[1]}
    )()
    world.run(1)
    world.loop.decide(LOAD)
    asked = world.loop._target_mhz
    for _ in range(10):
        world.time.advance(0.2)
        world.loop.renew()
    assert len(decided) == 2
    assert world.loop._target_mhz == asked
    world.loop.set_limit(Limit(source="operator", max_mhz=700.0))
    world.loop.renew()
    assert world.loop._target_mhz == 600.0
    world.loop.clear_limit("operator")
    world.loop.renew()
    assert world.loop._target_mhz == asked


def test_a_step_that_failed_is_not_renewed():
    world = World()
    world.run(1)
    sequence = world.loop._sequence
    world.loop.controller = type("Broken", (), {"decide": lambda self, o: 1 / 0})()
    with pytest.raises(ZeroDivisionError):
        world.loop.decide(LOAD)
    world.time.advance(5.0)
    world.loop.renew()
    assert world.loop._sequence == sequence
