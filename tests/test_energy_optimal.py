"""EnergyOptimal: least power among the safe levels, and a floor that rises as memory fills."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.memory_floor import Memory
from voltana.errors import ConfigError
from voltana.slo import Slo
from voltana.testing import strategies as vst
from voltana.testing.samples import LinearSnapshot, observation
from voltana.values import Load, Queue, Status

SLO = Slo(ttft_s=0.6, itl_s=0.05)
LEVELS = tuple(float(mhz) for mhz in range(570, 1411, 30))
MODEL = LinearSnapshot()
MEMORY = Memory(capacity_tokens=100_000.0, rise_from=0.7, full_at=1.0, lead_s=0.0)


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


@given(st.integers(1, 300), st.integers(1, 90_000), st.floats(570.0, 1410.0))
def test_no_safe_level_takes_less_power(requests, kv_tokens, sweet_mhz):
    decision = make(Cubic(sweet_mhz)).decide(decode(requests, kv_tokens))
    if decision.status is Status.CERTIFIED:
        safe = [mhz for mhz in LEVELS if decision.forecast.upper_at(mhz) <= SLO.itl_s]
        assert abs(decision.clock_mhz - sweet_mhz) == min(abs(mhz - sweet_mhz) for mhz in safe)


@given(st.integers(1, 200), st.integers(1, 120_000), st.integers(0, 50_000))
def test_fuller_memory_never_means_a_slower_clock(requests, kv_tokens, more):
    clocks = [
        make(memory=MEMORY).decide(decode(requests, tokens)).clock_mhz
        for tokens in (kv_tokens, kv_tokens + more)
    ]
    assert clocks[0] <= clocks[1]


def test_a_filling_memory_raises_the_clock_before_it_is_full():
    def clock_mhz(start_tokens):
        controller = make(memory=dataclasses.replace(MEMORY, lead_s=10.0), settle_s=0.0)
        for step in range(200):
            share = min(step / 150, 1.0)
            tokens = int(start_tokens + share * (60_000 - start_tokens))
            decision = controller.decide(decode(8, tokens, now_s=step * 0.05))
        return decision.clock_mhz

    assert clock_mhz(60_000) < clock_mhz(20_000)


@pytest.mark.parametrize("speed", [0.8, 0.95, 1.0])
def test_waiting_requests_mean_a_quick_clock_and_idle_the_slowest(speed):
    controller = make(memory=Memory(waiting_speed=speed))
    waiting = decode(8, 1000, queue=Queue(requests=1, tokens=10))
    decision = controller.decide(waiting)
    took_s = controller.predictor.forecast(waiting.load, np.array(LEVELS)).mean_s
    quick = [mhz for mhz, s in zip(LEVELS, took_s, strict=True) if speed * s <= took_s[-1]]
    assert decision.clock_mhz == min(quick)
    assert decision.status is Status.CERTIFIED
    assert controller.decide(observation(Load())).clock_mhz == LEVELS[0]


def test_a_slower_clock_has_to_pay_for_its_settling():
    near, far = LEVELS[1], LEVELS[-1]
    assert make(settle_s=0.2).decide(decode(8, 1000, target_mhz=near)).clock_mhz == near
    assert make(settle_s=0.2).decide(decode(8, 1000, target_mhz=far)).clock_mhz == LEVELS[0]
    assert make(settle_s=0.0).decide(decode(8, 1000, target_mhz=near)).clock_mhz == LEVELS[0]


@given(st.floats(0, 2), st.floats(0, 2))
def test_the_floor_never_falls_with_use_and_stays_in_range(use, more):
    low, high = MEMORY.pressure_share(use), MEMORY.pressure_share(use + more)
    assert 0.0 <= low <= high <= 1.0
    assert MEMORY.pressure_share(MEMORY.rise_from) == 0.0
    assert MEMORY.pressure_share(MEMORY.full_at) == 1.0


def test_unknown_capacity_leaves_the_floor_away():
    assert Memory().pressure_share(Memory().used(Load.decode(500, 10**7))) == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("capacity_tokens", 0.0),
        ("reserved_tokens", -1.0),
        ("rise_from", 1.2),
        ("floor_share", 1.1),
        ("waiting_speed", -0.1),
        ("lead_s", -1.0),
        ("trend_s", 0.0),
    ],
)
def test_memory_out_of_range_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        dataclasses.replace(Memory(), **{field: value})


@pytest.mark.parametrize(("field", "value"), [("settle_s", -0.1), ("horizon_s", 0.0)])
def test_arguments_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        make(**{field: value})
    with pytest.raises(ConfigError, match="levels_mhz"):
        EnergyOptimal(MODEL, Cubic(), (), SLO)
