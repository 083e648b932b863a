"""The whole loop under the guarantee, as a state machine: nothing that it can meet breaks it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.honest import HonestActuator
from tests.mutants import QUICK
from tests.test_loop import Board
from voltana.controllers.ecofreq import EcoFreq
from voltana.loop import ControlLoop
from voltana.predictors.conformal import ByTokens, Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.slo import Slo
from voltana.testing import samples
from voltana.testing.guarantee_audit import audit
from voltana.testing.guarantee_program import Issued, Label, Stretch, Trace
from voltana.timebase import ManualTime
from voltana.values import Domain, Limit, Load, Queue, Status

LEVELS = (600.0, 1005.0, 1200.0, 1410.0)
IN_FLIGHT = 4


class GuardedLoop(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.time = ManualTime(10.0)
        self.board = Board(self.time)
        inner = EcoPred(max_clock_mhz=1410.0)
        for outcome in samples.outcomes(60):
            inner.learn(outcome)
        self.predictor = Conformal(inner, QUICK, first=0.15, weight=ByTokens(64.0))
        self.loop = ControlLoop(
            instance="d0",
            domain=Domain(name="d0"),
            controller=EcoFreq(self.predictor, LEVELS, Slo(ttft_s=0.6, itl_s=0.05)),
            actuator=HonestActuator(),
            sensor=self.board,
            time=self.time,
            levels_mhz=LEVELS,
            predictor=self.predictor,
        )
        self.trace = Trace(QUICK)
        self.waiting = []
        self.done = []

    @rule(
        load=st.sampled_from(
            [Load.decode(64, 40_000), Load.decode(8, 900), Load.prefill([(99, 0)])]
        ),
        waits_s=st.sampled_from([0.0, 0.3, 0.59, 2.0]),
    )
    @precondition(lambda self: len(self.waiting) < IN_FLIGHT)
    def decide(self, load, waits_s):
        decision = self.loop.decide(load, Queue(oldest_wait_s=waits_s))
        forecast, promise = decision.forecast, decision.promise
        index, factor = forecast.standing_for(promise.in_force_mhz)
        self.time.advance(0.02)
        if index < 0:
            return
        issued = Issued(
            decision=decision,
            part=forecast.margin.part_at(float(forecast.clocks_mhz[index])),
            mean_s=float(forecast.mean_s[index]) * factor,
            stretch=Stretch(mode="below"),
            index=0,
        )
        self.trace.events.append(issued)
        self.waiting.append((issued, load))

    @rule(
        which=st.integers(0, IN_FLIGHT - 1),
        factor=st.sampled_from([1 - 1e-9, 1.0, 1 + 1e-9, 0.01, 50.0, float("nan")]),
        settled=st.booleans(),
    )
    @precondition(lambda self: self.waiting)
    def deliver(self, which, factor, settled):
        issued, load = self.waiting.pop(which % len(self.waiting))
        bound_s = min(issued.bound_s, 1.0)
        clock_mhz = issued.decision.promise.in_force_mhz if settled else 330.0
        self.hand_over(issued, load, bound_s * factor, clock_mhz, duplicate=False)
        self.done.append((issued, load))

    @rule()
    @precondition(lambda self: self.done)
    def deliver_again(self):
        self.hand_over(*self.done[-1], 1e-3, 1410.0, duplicate=True)

    @rule(clock_mhz=st.sampled_from([600.0, 990.0, 1200.0, 1410.0, float("nan")]))
    def unsettle(self, clock_mhz):
        self.board.clock_mhz = clock_mhz

    @rule(cap_mhz=st.sampled_from([300.0, 1005.0, 1300.0]))
    def cap(self, cap_mhz):
        self.loop.set_limit(Limit(source="operator", max_mhz=cap_mhz))

    @rule()
    def lift(self):
        self.loop.clear_limit("operator")

    @rule()
    def widen(self):
        self.predictor.widen(0.4, labels=5)

    @invariant()
    def everything_that_is_stated_holds(self):
        audit(self.trace)
        for tracker in self.predictor.groups.values():
            account = tracker.account
            assert account.violated <= account.missed <= tracker.bound() + 1e-9
            assert account.forgiven == 0

    @invariant()
    def certificates_hold_at_the_slowest_clock(self):
        for issued, _ in self.waiting:
            decision = issued.decision
            if decision.status is Status.CERTIFIED:
                in_force_mhz = decision.promise.in_force_mhz
                assert in_force_mhz <= decision.clock_mhz
                assert issued.bound_s <= decision.budget_s
                # What stands for a clock between two levels is never less than the faster one's.
                index, factor = decision.forecast.standing_for(in_force_mhz)
                assert factor >= 1.0
                assert decision.forecast.upper_s[index] * factor <= decision.budget_s

    def hand_over(self, issued, load, latency_s, clock_mhz, *, duplicate):
        self.loop.learn(
            issued.decision,
            load=load,
            latency_s=latency_s,
            clock_mhz=clock_mhz,
            ended_at_s=self.time.now_s(),
        )
        self.trace.events.append(
            Label(issued=issued, latency_s=latency_s, clock_mhz=clock_mhz, duplicate=duplicate)
        )


GuardedLoop.TestCase.settings = settings(
    max_examples=15, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestGuardedLoop = GuardedLoop.TestCase


@pytest.mark.slow
class TestGuardedLoopLong(GuardedLoop.TestCase):
    settings = settings(
        max_examples=300,
        stateful_step_count=120,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
