"""Every controller and wrapper that ships keeps the contract of its port."""

from __future__ import annotations

import copy
import functools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.inventory import EXAMPLES, classes_with
from tests.conformance.test_predictors import DATASHEET, tables
from tests.honest import HonestController
from voltana.controllers.both_phases import BothPhases
from voltana.controllers.budgeted import Budgeted
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.ecofreq_v01 import EcoFreqV01
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.fixed import FixedClock
from voltana.controllers.memory import Memory
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.parked import Parked
from voltana.controllers.pid import Pid, PidGains
from voltana.controllers.power_budget import PowerBudget
from voltana.controllers.rate_limit import RateLimited
from voltana.controllers.supervisor import Supervised
from voltana.controllers.window import WindowGovernor
from voltana.levels import A100_CLOCKS_MHZ, EvenlySpaced
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.slo import Slo
from voltana.slo_reserve import SloReserve
from voltana.testing import check_controller, samples
from voltana.testing import strategies as vst
from voltana.timebase import MonotonicTime
from voltana.values import Decision, Load, Status

SLO = Slo(ttft_s=0.6, itl_s=0.06)
PUBLISHED = (1005.0, 1410.0)
SPACED = EvenlySpaced(28).levels(A100_CLOCKS_MHZ)


@functools.cache
def teacher():
    predictor = EcoPred.from_datasheet(DATASHEET)
    for outcome in samples.outcomes(200):
        predictor.learn(outcome)
    return predictor


def trained():
    return copy.deepcopy(teacher())


def ecofreq(levels_mhz=A100_CLOCKS_MHZ, predictor=trained, **options):
    return EcoFreq(predictor(), levels_mhz, SLO, **options)


def energy_optimal(levels_mhz=SPACED, **options):
    return EnergyOptimal(trained(), LinearPower(), levels_mhz, SLO, **options)


def optimal_available(levels_mhz=SPACED, power=None, **options):
    return OptimalAvailable(trained(), power, levels_mhz, SLO, **options)


def budgeted(budget_w):
    return Budgeted(
        ecofreq(),
        LinearPower(),
        A100_CLOCKS_MHZ,
        PowerBudget(budget_w),
        instance="d0",
        busiest=Load.decode(4096, 1 << 20),
    )


class Failing:
    """Fails now and then, and takes a level that is none."""

    levels_mhz = A100_CLOCKS_MHZ

    def decide(self, observation):
        if observation.load.prefill_tokens:
            raise RuntimeError("no idea")
        return Decision(clock_mhz=1000.0, reason="between levels")


CASES = {
    "Budgeted, enough": lambda: budgeted(1e6),
    "EcoFreq, cold": lambda: ecofreq(predictor=EcoPred),
    "EcoFreq, trained": ecofreq,
    "EcoFreq, 28 levels": lambda: ecofreq(SPACED),
    "EcoFreq, published levels": lambda: ecofreq(PUBLISHED),
    "EcoFreq, one level": lambda: ecofreq((1410.0,)),
    "EcoFreq, without the queue rule": lambda: ecofreq(queue_rule=False),
    "EcoFreq, slow when idle": lambda: ecofreq(idle_after_s=0.0, idle_mhz=210.0),
    "EcoFreqV01": lambda: EcoFreqV01(tables(), PUBLISHED, SLO),
    "EcoFreqV01, of the demo": lambda: EcoFreqV01(
        tables(), PUBLISHED, SLO, slo_margin=0.35, median_of=5
    ),
    "EnergyOptimal": energy_optimal,
    "EnergyOptimal, published levels": lambda: energy_optimal(PUBLISHED),
    "EnergyOptimal, little memory": lambda: energy_optimal(
        memory=Memory(capacity_tokens=50_000.0, reserved_tokens=512.0)
    ),
    "BothPhases": lambda: BothPhases(trained(), LinearPower(), SPACED, SLO),
    "OptimalAvailable": optimal_available,
    "OptimalAvailable, with a power model": lambda: optimal_available(power=LinearPower()),
    "OptimalAvailable, that expects nothing": lambda: optimal_available(
        A100_CLOCKS_MHZ, reserve=SloReserve(0.01, eta=0.05, first=0.95, least=0.4), arrivals_s=0.0
    ),
    "FixedClock": lambda: FixedClock(1005.0),
    "FixedClock.max": lambda: FixedClock.max(A100_CLOCKS_MHZ),
    "FixedClock.min": lambda: FixedClock.min(A100_CLOCKS_MHZ),
    "Parked": lambda: Parked(energy_optimal(), LinearPower()),
    "Parked, at once": lambda: Parked(ecofreq(), LinearPower(), settle_s=0.0, gaps=1),
    "Pid": lambda: Pid(A100_CLOCKS_MHZ, SLO),
    "Pid, with a derivative": lambda: Pid(SPACED, SLO, gains=PidGains(derivative_mhz_s=5.0)),
    "WindowGovernor": lambda: WindowGovernor(tables(), PUBLISHED, SLO),
    "WindowGovernor, that learns": lambda: WindowGovernor(trained(), SPACED, SLO, window_s=1.0),
    "RateLimited": lambda: RateLimited(ecofreq(), dwell_s=0.2, max_step_mhz=60.0),
    "RateLimited, step alone": lambda: RateLimited(ecofreq(), dwell_s=0.0, max_step_mhz=15.0),
    "RateLimited, a user's": lambda: RateLimited(HonestController(), dwell_s=0.5),
    "Supervised": lambda: Supervised(ecofreq(), fallback=FixedClock.max(A100_CLOCKS_MHZ)),
    "Supervised, failing": lambda: Supervised(
        Failing(), fallback=FixedClock.max(A100_CLOCKS_MHZ), recover_after_s=0.3
    ),
    "Supervised, with a limit": lambda: Supervised(
        ecofreq(), fallback=FixedClock(1410.0), limit_s=10.0, time=MonotonicTime()
    ),
    "wrapped twice": lambda: Supervised(
        RateLimited(ecofreq(), dwell_s=0.1), fallback=ecofreq(predictor=EcoPred)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_controllers(name):
    make = CASES[name]
    levels_mhz = getattr(make(), "levels_mhz", A100_CLOCKS_MHZ)
    check_controller(make, levels_mhz=tuple(levels_mhz)).raise_if_failed()


@EXAMPLES
@pytest.mark.parametrize("name", CASES)
def test_controllers_survive_whatever_may_be_observed(name, examples):
    make = CASES[name]

    @settings(max_examples=examples)
    @given(st.lists(vst.observations(), min_size=1, max_size=5))
    def check(observations):
        controller = make()
        for observation in sorted(observations, key=lambda seen: seen.now_s):
            decision = controller.decide(observation)
            assert decision.clock_mhz >= 0
            assert not math.isnan(decision.budget_s)
            if decision.status is Status.CERTIFIED:
                assert decision.forecast.upper_at(decision.clock_mhz) <= decision.budget_s

    check()


def test_none_is_forgotten():
    shipped = classes_with("voltana.controllers", "decide")
    assert set(shipped) <= {type(make()).__name__ for make in CASES.values()}
