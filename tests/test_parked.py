"""Parked: an idle instance goes where idling and waking together cost the least."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.parked import PARKED, Parked
from voltana.errors import ConfigError
from voltana.testing import check_controller, samples
from voltana.testing import strategies as vst
from voltana.values import Decision, Load

LEVELS = (600.0, 900.0, 1200.0, 1410.0)
WORK = Load.prefill([(800, 0)])


class Works:
    """Works at 1200 MHz and waits at the lowest level."""

    levels_mhz = LEVELS

    def decide(self, observation):
        load = observation.load
        busy = load.prefill_tokens or load.decode_requests
        return Decision(clock_mhz=1200.0 if busy else 600.0, reason="work" if busy else "idle")


class Power:
    """Idle power rises by 20 W from the lowest clock on; work takes 100 W more."""

    cheapest_mhz = 600.0

    def forecast_w(self, load, clocks_mhz):
        idle_w = 50.0 + 20.0 * np.abs(np.asarray(clocks_mhz) - self.cheapest_mhz) / 810.0
        return idle_w + (100.0 if load.prefill_tokens or load.decode_requests else 0.0)


def plain(decision):
    return decision.clock_mhz, decision.reason


def seen(now_s, load=None):
    return dataclasses.replace(samples.observation(load or Load(), now_s), target_mhz=1200.0)


def after_gaps(gap_s, power=None, count=60):
    """A controller that has been idle for `gap_s` again and again, and works until then."""
    parked, now_s = Parked(Works(), power or Power()), 0.0
    for _ in range(count):
        parked.decide(seen(now_s, WORK))
        now_s += 0.05
        parked.decide(seen(now_s))
        now_s += gap_s
    parked.decide(seen(now_s, WORK))
    return parked, now_s + 0.05


def test_work_passes_as_it_is_and_so_does_an_instance_that_never_worked():
    parked = Parked(Works(), Power())
    assert parked.decide(seen(0.0)).reason == "idle"
    assert plain(parked.decide(seen(1.0, WORK))) == (1200.0, "work")


def test_a_short_gap_is_waited_out_at_the_clock_of_the_work():
    parked, now_s = after_gaps(0.005)
    assert parked.decide(seen(now_s)).clock_mhz == 1200.0


def test_a_long_gap_is_waited_out_in_the_cheapest_state_be_it_the_lowest_clock_or_not():
    parked, now_s = after_gaps(5.0)
    decision = parked.decide(seen(now_s))
    assert (decision.clock_mhz, decision.reason) == (600.0, PARKED)
    other = Power()
    other.cheapest_mhz = 900.0
    parked, now_s = after_gaps(5.0, other)
    assert parked.decide(seen(now_s)).clock_mhz == 900.0


def test_one_that_stays_idle_goes_there_in_the_end():
    parked, now_s = after_gaps(0.005)
    clocks = [parked.decide(seen(now_s + wait_s)).clock_mhz for wait_s in np.arange(0.0, 2.0, 0.1)]
    assert clocks[0] == 1200.0
    assert clocks[-1] == 600.0
    assert clocks == sorted(clocks, reverse=True)


def test_an_unknown_power_leaves_the_decision_alone():
    class Unknown(Power):
        def forecast_w(self, load, clocks_mhz):
            return np.full(len(clocks_mhz), math.nan)

    parked, now_s = after_gaps(1.0, Unknown())
    assert parked.decide(seen(now_s)).reason == "idle"


@given(st.lists(vst.observations(), min_size=1, max_size=20))
def test_it_asks_for_levels_and_changes_decisions_on_nothing_alone(observations):
    parked = Parked(Works(), Power())
    for observation in observations:
        decision = parked.decide(observation)
        assert decision.clock_mhz in LEVELS
        if observation.load.prefill_tokens or observation.load.decode_requests:
            assert plain(decision) == plain(Works().decide(observation))


def test_it_keeps_the_contract():
    check_controller(lambda: Parked(Works(), Power())).raise_if_failed()


@pytest.mark.parametrize("wrong", [{"settle_s": -1.0}, {"settle_s": math.nan}, {"gaps": 0}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Parked(Works(), Power(), **wrong)


def test_a_controller_without_levels_is_refused():
    class NoLevels:
        def decide(self, observation):
            raise NotImplementedError

    with pytest.raises(ConfigError, match="controller"):
        Parked(NoLevels(), Power())
