"""How slowly prefill waits for work, where waking takes a part of close deadlines."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.optimal_available import AWAKE, OptimalAvailable
from voltana.controllers.parked import Parked
from voltana.controllers.waking import ERROR, SETTLED_S, WAKING_SHARE, Waking
from voltana.slo import Slo
from voltana.testing.samples import observation
from voltana.values import Binding, Bounds, Forecast, Load, Queue

LEVELS = tuple(float(mhz) for mhz in range(570, 1411, 30))
SLO = Slo(ttft_s=0.6, itl_s=0.05)
ALLOWED = 0.01
SLACKS_S = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=60)


def woken(slacks_s, late_share=ALLOWED):
    waking = Waking(np.array(LEVELS), SLO.ttft_s, late_share)
    for slack_s in slacks_s:
        waking.note(slack_s + 0.5, 0.5)
    return waking


def lost_by_waking(slack_s, level_mhz):
    """How much likelier a prompt is late for having found the device at a level."""
    lost_s = SETTLED_S * (1.0 - level_mhz / LEVELS[-1])
    return late_chance(slack_s - lost_s) - late_chance(slack_s)


def late_chance(slack_s):
    """The distribution function of Laplace errors."""
    tail = math.exp(-abs(slack_s) / (ERROR * SLO.ttft_s)) / 2.0
    return tail if slack_s >= 0.0 else 1.0 - tail


@given(SLACKS_S, st.floats(1e-4, 0.1))
def test_it_waits_as_slowly_as_makes_few_enough_late(slacks_s, allowed):
    slowest = woken(slacks_s, allowed).slowest
    most = WAKING_SHARE * allowed

    def late(level):
        return sum(lost_by_waking(slack_s, LEVELS[level]) for slack_s in slacks_s) / len(slacks_s)

    assert late(slowest) <= most + 1e-9
    assert slowest == 0 or late(slowest - 1) >= most - 1e-9


@given(st.lists(st.one_of(st.floats(-9.0, -0.2), st.floats(0.2, 9.0)), max_size=60))
def test_what_is_lost_or_has_time_lets_it_wait_at_the_lowest_level(slacks_s):
    assert woken(slacks_s).slowest == 0


@given(st.lists(st.floats(-0.01, 0.01), min_size=1, max_size=60))
def test_where_nothing_may_be_late_it_waits_for_close_deadlines_at_the_fastest(slacks_s):
    assert woken(slacks_s, 0.0).slowest == len(LEVELS) - 1


class Proportional:
    """Prefill of 6,000 tokens/s at the fastest clock, in proportion to it."""

    def forecast(self, load, clocks_mhz):
        mean_s = load.prefill_tokens / 6000.0 * LEVELS[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def learn(self, outcome):
        pass

    def snapshot(self):
        return self


class Cheap:
    """Idling takes the less the slower the clock."""

    def forecast_w(self, load, clocks_mhz):
        return 50.0 + clocks_mhz * (0.05 + 0.2 * (load.prefill_tokens > 0))

    def learn_window(self, energy_j, exposures):
        pass


def waiting_after(tokens, idles=True, **bounds):
    """The decision on nothing of the default prefill after many such prompts, two seconds apart."""
    limits = Bounds(**bounds)
    controller = Parked(OptimalAvailable(Proportional(), Cheap(), LEVELS, SLO), Cheap())
    for number in range(20):
        if idles:
            controller.decide(observation(Load(), 2.0 * number))
        queue = Queue(oldest_wait_s=0.015)
        load, now_s = Load.prefill([(tokens, 0)]), 2.0 * number + 1.0
        controller.decide(observation(load, now_s, queue=queue, bounds=limits))
    return controller, controller.decide(observation(Load(), 41.0))


def test_prompts_that_hardly_keep_their_deadline_find_the_device_awake():
    controller, decision = waiting_after(3450)  # 575 of 585 ms
    assert decision.clock_mhz > 1300.0
    assert decision.binding is Binding.DEADLINE
    alone = controller.controller.decide(observation(Load(), 42.0))
    assert alone.reason == AWAKE
    assert alone.clock_mhz == decision.clock_mhz


def test_what_is_close_at_the_fastest_permitted_level_counts():
    """A cap makes other prompts close: 575 of 585 ms at 900 MHz, or lost."""
    cap_mhz = 900.0
    _, decision = waiting_after(round(3450 * cap_mhz / LEVELS[-1]), max_mhz=cap_mhz)
    assert 0.9 * cap_mhz < decision.clock_mhz <= cap_mhz
    _, lost = waiting_after(3450, max_mhz=cap_mhz)
    assert lost.clock_mhz == LEVELS[0]


def test_short_prompts_and_lost_ones_let_it_sleep():
    for tokens in (300, 5000):
        _, decision = waiting_after(tokens)
        assert decision.clock_mhz == LEVELS[0], tokens
        assert decision.binding is Binding.NONE


def test_what_comes_while_it_computes_wakes_nothing():
    controller, _ = waiting_after(3450, idles=False)
    assert controller.controller.decide(observation(Load(), 42.0)).clock_mhz == LEVELS[0]
