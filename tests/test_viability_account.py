"""Counting what viability stands on: envelope and viable set, through wrappers, from zero on."""

from __future__ import annotations

import math

import pytest

from tests.test_energy_optimal import make, serve
from voltana.controllers.fixed import FixedClock
from voltana.controllers.rate_limit import RateLimited
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.ports import viability_of
from voltana.testing.samples import observation
from voltana.values import Load
from voltana.viability_account import ViabilityAccount, total


def test_before_anything_ran_there_are_counts_and_no_shares() -> None:
    account = viability_of(make())
    assert account == ViabilityAccount(windows=0, broken=0, learning=0, steps=0, outside=0)
    assert math.isnan(account.broken_share)
    assert math.isnan(account.outside_share)
    assert account.figures()["broken_share"] is account.figures()["outside_share"] is None


def test_steps_beyond_the_viable_set_are_counted() -> None:
    controller = make()
    serve(controller, arrivals_per_s=20.0)
    before = controller.viability_account()
    most = controller.plan_in_force.viable_batch
    assert before.steps > 100
    assert before.outside == 0
    assert most < math.inf
    for requests in (int(most), int(most) + 1):
        controller.decide(observation(Load.decode(requests, requests * 300), now_s=31.0))
    after = controller.viability_account()
    assert (after.steps - before.steps, after.outside) == (2, 1)


def test_a_burst_beyond_the_envelope_is_counted() -> None:
    controller = make()
    serve(controller, arrivals_per_s=20.0)
    before = controller.viability_account()
    assert before.windows > 20
    begun_s = controller.envelope._begun_s
    controller.envelope.note(3000, begun_s + 1.1)
    after = controller.viability_account()
    assert (after.windows - before.windows, after.broken - before.broken) == (1, 1)


def test_windows_from_before_the_demand_is_learned_are_counted_apart() -> None:
    controller = make()
    serve(controller, arrivals_per_s=20.0, seconds=4.0)
    first = controller.viability_account()
    assert (first.windows, first.broken) == (0, 0)
    assert first.learning >= 2
    longer = make()
    serve(longer, arrivals_per_s=20.0, seconds=30.0)
    assert longer.viability_account().learning < 8
    assert longer.viability_account().windows > 15


def test_a_wrapper_tells_what_it_wraps_and_a_fixed_clock_has_nothing_to_tell() -> None:
    assert viability_of(RateLimited(make(), dwell_s=1.0)) == make().viability_account()
    assert viability_of(FixedClock(1410.0)) is None
    assert viability_of(RateLimited(FixedClock(1410.0), dwell_s=1.0)) is None


def test_those_that_count_nothing_add_nothing() -> None:
    one = ViabilityAccount(windows=10, broken=1, learning=3, steps=100, outside=5)
    assert total([None, one, None, one]) == ViabilityAccount(
        windows=20, broken=2, learning=6, steps=200, outside=10
    )
    assert total([None, None]) is None
    assert total([]) is None


@pytest.mark.slow
def test_in_the_default_demo_the_envelope_is_broken_in_one_window_of_a_hundred_at_most() -> None:
    comparison = compare(load_scenario(None, {"policies": ["voltana"]}))
    seen = comparison.runs[0].result.viability
    assert seen["windows"] >= 100
    assert seen["broken"] <= 0.01 * seen["windows"]
