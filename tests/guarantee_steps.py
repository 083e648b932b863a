"""Decisions that are issued and labels that are told, one at a time, and a world of stalls."""

from __future__ import annotations

import numpy as np

from tests.honest import HonestActuator
from tests.mutants import QUICK, Frozen
from tests.test_loop import Board
from voltana.controllers.ecofreq import EcoFreq
from voltana.loop import ControlLoop
from voltana.planning import lowest_safe_decision, settle
from voltana.predictors.conformal import Conformal
from voltana.promise import Statement
from voltana.slo import Slo
from voltana.testing import samples
from voltana.testing.guarantee_program import LEVELS_MHZ
from voltana.timebase import ManualTime
from voltana.values import Domain, Load, Outcome

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
