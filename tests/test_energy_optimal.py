"""EnergyOptimal: least power among the safe levels that its plan admits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.memory import Memory
from voltana.errors import ConfigError
from voltana.slo import Slo
from voltana.testing import strategies as vst
from voltana.testing.samples import LinearSnapshot, observation
from voltana.values import Binding, Load, Queue, Status
from voltana.viability import served_per_s, tabulate

SLO = Slo(ttft_s=0.6, itl_s=0.05)
LEVELS = tuple(float(mhz) for mhz in range(570, 1411, 30))
MODEL = LinearSnapshot()
MEMORY = Memory(capacity_tokens=100_000.0)


class Cubic:
    """Power that rises with the clock, or one with its least value at `sweet_mhz`."""

    def __init__(self, sweet_mhz=0.0):
        self.sweet_mhz = sweet_mhz

    def forecast_w(self, load, clocks_mhz):
        return 100.0 + np.abs(clocks_mhz - self.sweet_mhz) / 4.0

    def learn_window(self, energy_j, exposures):
        pass


def make(power=None, **options):
    return EnergyOptimal(MODEL, power or Cubic(), LEVELS, SLO, **options)


def decode(requests, kv_tokens, now_s=1.0, target_mhz=math.nan, **changes):
    seen = observation(Load.decode(requests, kv_tokens), **changes)
    return dataclasses.replace(seen, now_s=now_s, target_mhz=target_mhz)


@given(vst.observations())
def test_chooses_a_level_and_certifies_only_what_fits(seen):
    decision = make(memory=MEMORY).decide(seen)
    assert decision.clock_mhz in LEVELS
    if decision.status is Status.CERTIFIED:
        assert decision.forecast.upper_at(decision.clock_mhz) <= decision.budget_s
    elif decision.status is Status.SATURATED:
        assert decision.clock_mhz == LEVELS[-1]


@given(st.integers(1, 300), st.integers(1, 10**12))
def test_plans_whatever_an_engine_says_that_its_cache_holds(requests, kv_tokens):
    controller = make(memory=MEMORY)
    for number in range(3):  # each decision is by the plan made before it
        decision = controller.decide(decode(requests, kv_tokens, now_s=1.0 + number))
        controller.plan(1.0 + number)
        assert decision.clock_mhz in LEVELS


@given(st.integers(1, 300), st.integers(1, 90_000), st.floats(570.0, 1410.0))
def test_no_safe_level_takes_less_power(requests, kv_tokens, sweet_mhz):
    # Nothing is known of the demand: neither was any measured, nor the clock at which it is served.
    found = decode(requests, kv_tokens, clock_mhz=math.nan)
    decision = make(Cubic(sweet_mhz)).decide(found)
    if decision.binding is Binding.VIABILITY:
        assert decision.clock_mhz == LEVELS[-1]  # at the end of what the fastest clock serves
    elif decision.status is Status.CERTIFIED:
        safe = [mhz for mhz in LEVELS if decision.forecast.upper_at(mhz) <= SLO.itl_s]
        assert abs(decision.clock_mhz - sweet_mhz) == min(abs(mhz - sweet_mhz) for mhz in safe)


def serve(controller, owed=200.0, arrivals_per_s=20.0, seconds=30.0, capacity=math.inf):
    """Arrivals at a constant rate, iterations as `MODEL` has them; clocks, batches and reasons."""
    now_s, batch, waiting, seen = 0.0, 1.0, 0.0, []
    while now_s < seconds:
        requests = max(int(batch), 1)
        queue = Queue(requests=int(waiting), tokens=int(100 * waiting), oldest_wait_s=0.1)
        load = Load.decode(requests, 300 * requests)
        decision = controller.decide(
            decode(requests, 300 * requests, now_s=now_s, queue=queue if int(waiting) else Queue())
        )
        iteration_s = float(MODEL.forecast(load, np.array([decision.clock_mhz])).mean_s[0])
        now_s += iteration_s
        if int(now_s / 0.25) > int((now_s - iteration_s) / 0.25):
            controller.plan(now_s)
        waiting += arrivals_per_s * iteration_s
        joined = min(waiting, capacity / 300.0 - batch)
        waiting, batch = waiting - joined, batch + joined - requests / owed
        seen.append((decision.clock_mhz, requests, decision.binding))
    return seen


def test_a_demand_that_a_slow_clock_serves_is_served_slowly():
    slow, quick = (serve(make(), arrivals_per_s=rate)[-1][0] for rate in (1.0, 60.0))
    assert slow == LEVELS[0]
    assert quick >= slow


def test_a_batch_that_is_found_running_is_served_as_it_was_until_its_demand_is_known():
    """As where thresholds were changed or an agent started again: it may be at its boundary."""
    held = 150_000.0
    controller = make(memory=Memory(capacity_tokens=held))
    found = decode(170, 51_000, clock_mhz=1410.0)
    chosen_mhz = controller.decide(found).clock_mhz
    table = tabulate(
        MODEL, LEVELS, context_tokens=300.0, threshold_s=SLO.itl_s, kv_capacity_tokens=held
    )
    asked_per_s = 170 / float(MODEL.forecast(found.load, np.array([1410.0])).mean_s[0])
    served = served_per_s(table)
    assert served[0] < 0.95 * asked_per_s < served[LEVELS.index(chosen_mhz)]


@pytest.mark.parametrize("mhz", [1410.0, 570.0, 1e-3, 1e9, math.nan, 0.0])
def test_the_first_requests_of_all_are_served_slowly(mhz):
    assert make(memory=MEMORY).decide(decode(2, 600, clock_mhz=mhz)).clock_mhz == LEVELS[0]


def test_what_the_first_requests_made_a_demand_seem_stands_for_no_seconds():
    """A few that come together seem to be more than memory serves; the batch fills at any clock."""
    controller = make(memory=MEMORY)
    now_s, batch, clocks_mhz = 0.0, 1.0, []
    while now_s < 3.0:
        requests = int(batch)
        seen = decode(requests, 300 * requests, now_s=now_s)
        clocks_mhz.append(controller.decide(seen).clock_mhz)
        iteration_s = float(MODEL.forecast(seen.load, np.array(clocks_mhz[-1:])).mean_s[0])
        if int((now_s + iteration_s) / 0.25) > int(now_s / 0.25):
            controller.plan(now_s + iteration_s)
        come = 60.0 if now_s < 0.3 else 10.0
        now_s, batch = now_s + iteration_s, batch + come * iteration_s - requests / 200.0
    assert max(clocks_mhz) == LEVELS[-1]
    assert clocks_mhz[-1] < LEVELS[-1]


def test_a_small_memory_takes_a_quicker_clock_for_the_same_demand():
    ample = serve(make(memory=Memory(capacity_tokens=1e6)))
    tight = serve(make(memory=Memory(capacity_tokens=30_000.0)), capacity=30_000.0)
    assert np.mean([mhz for mhz, _, _ in tight[-200:]]) >= np.mean(
        [mhz for mhz, _, _ in ample[-200:]]
    )


def test_requests_that_waited_too_long_mean_the_fastest_clock_and_idle_the_slowest():
    controller = make(memory=MEMORY)
    waiting = decode(8, 1000, queue=Queue(requests=1, tokens=10, oldest_wait_s=SLO.ttft_s))
    decision = controller.decide(waiting)
    assert decision.clock_mhz == LEVELS[-1]
    assert decision.binding is Binding.MEMORY
    assert decision.status is Status.CERTIFIED
    assert controller.decide(observation(Load())).clock_mhz == LEVELS[0]


def test_what_nothing_is_known_of_is_served_at_the_fastest_clock():
    class Unknown(LinearSnapshot):
        def forecast(self, load, clocks_mhz):
            made = super().forecast(load, clocks_mhz)
            return dataclasses.replace(made, upper_s=np.full(len(clocks_mhz), math.inf))

    decision = EnergyOptimal(Unknown(), Cubic(), LEVELS, SLO).decide(decode(8, 1000))
    assert (decision.clock_mhz, decision.binding) == (LEVELS[-1], Binding.UNCERTAINTY)


def test_no_level_is_no_controller():
    with pytest.raises(ConfigError, match="levels_mhz"):
        EnergyOptimal(MODEL, Cubic(), (), SLO)
