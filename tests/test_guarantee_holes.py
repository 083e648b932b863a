"""Ways round the account that an attack found, and mutants that no test caught."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.guarantee_steps import LEVELS, LOAD, TYPICAL, World, mean_at
from tests.mutants import Frozen
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.in_force import LAG_S, ClocksInForce
from voltana.policies.default import PROMISE
from voltana.slo import Slo
from voltana.slo_reserve import SloReserve
from voltana.testing import samples
from voltana.testing.guarantee_program import LEVELS_MHZ
from voltana.values import Decision, Limit, Load, Outcome, Queue, Status

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
