"""The decode law: demand envelope, price of misses, held level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiled_plant import OWED
from voltana.controllers.demand_envelope import BROKEN, DEMAND_S, STEP, DemandEnvelope
from voltana.controllers.held_level import SETTLING_S, HeldLevel
from voltana.controllers.memory import Memory
from voltana.controllers.missed_price import MOST, MissedPrice
from voltana.errors import ConfigError


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(2.0, 60.0))
def test_the_envelope_is_broken_as_rarely_as_it_says(seed, per_s):
    """A tracked quantile: at most BROKEN of the windows and a constant, on any sequence."""
    draws = np.random.default_rng(seed)
    envelope, batch, now_s = DemandEnvelope(OWED), 50, 0.0
    for _ in range(4000):
        envelope.note(batch, now_s)
        now_s += 0.05
        ended = draws.binomial(batch, min(1.0 / OWED, 1.0))
        batch = max(batch + int(draws.poisson(per_s * 0.05)) - int(ended), 0)
    most = BROKEN * envelope.windows + (10.0 / STEP)
    assert envelope.windows > 100
    assert envelope.broken <= most
    assert envelope.burst_requests >= 0.0


def test_an_idle_instance_demands_nothing_and_breaks_nothing():
    envelope = DemandEnvelope()
    assert envelope.rate_per_s == envelope.burst_requests == 0.0
    for step in range(50):
        envelope.note(0, step * 0.2)
    assert envelope.broken == 0
    assert envelope.relative_error(envelope.rate_per_s) == 1.0


def test_the_demand_of_a_few_seconds_is_known_less_well():
    envelope = DemandEnvelope()
    assert envelope.error_by_now(envelope.rate_per_s) == 1.0
    errors = []
    for step in range(2400):
        envelope.note(50, step * 0.05)
        if step in (40, 2399):
            rho = envelope.rate_per_s
            errors.append(envelope.error_by_now(rho) / envelope.relative_error(rho))
    assert errors[0] == pytest.approx(math.sqrt(DEMAND_S / 2.0), rel=0.1)
    assert errors[1] == pytest.approx(1.0, rel=0.01)


def test_the_price_rises_while_too_much_is_late_and_falls_while_nothing_is():
    price = MissedPrice(0.01, first=0.05)
    for step in range(200):
        price.note(100, late=step % 10 == 0)
        price.step(step * 0.25)
    risen = price.slack
    assert 0.05 < risen <= MOST
    for step in range(200, 2000):
        price.note(100, late=False)
        price.step(step * 0.25)
    assert price.slack == 0.0


@given(st.lists(st.booleans(), max_size=300), st.floats(1e-4, 0.5))
def test_the_price_stays_in_its_range(late, alpha):
    price = MissedPrice(alpha)
    for step, missed in enumerate(late):
        price.note(10, late=missed)
        price.step(step * 0.3)
        assert 0.0 <= price.slack <= MOST


@pytest.mark.parametrize("late", [math.nan, math.inf, -math.inf, -0.5, 7.0])
def test_what_cannot_be_measured_is_late_and_does_not_stay(late):
    price = MissedPrice(0.01, first=0.05)
    price.step(0.0)
    price.note(10, late=late)
    price.step(0.1)
    assert 0.05 < price.slack <= MOST
    for number in range(10_000):
        price.note(10, late=0.0)
        price.step(0.2 + number)
    assert price.slack == 0.0


@pytest.mark.parametrize("cost", [[math.nan, 2.0], [1.0, math.inf], [1.0, math.nan], [1.0, 0.0]])
def test_a_power_that_is_no_number_lowers_nothing_and_is_forgotten(cost):
    held = HeldLevel(0.1, settling_s=0.0)
    held.hold(1, np.array([100.0, 200.0]), 0.0)
    for number in range(1, 50):
        held.hold(0, np.array(cost), number / 10)
    now_s = 5.0
    while held.hold(0, np.array([100.0, 200.0]), now_s) == 1:
        now_s += 0.1
        assert now_s < 6.0


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 0.9)), min_size=1))
def test_a_held_level_is_never_below_what_is_wanted(wishes):
    held, now_s = HeldLevel(), 0.0
    cost_w = np.linspace(100.0, 400.0, 10)
    for index, gap_s in wishes:
        now_s += gap_s
        assert held.hold(index, cost_w, now_s) >= index


def test_staying_costs_at_most_the_price_of_a_change():
    held, cost_w = HeldLevel(0.1), np.array([100.0, 200.0])
    assert held.hold(1, cost_w, 0.0) == 1
    taken = [held.hold(0, cost_w, 0.01 * step) for step in range(1, 40)]
    assert taken.index(0) == pytest.approx(20, abs=2)  # half of the power for 0.2 s
    assert held.hold(1, cost_w, 0.5) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 0.9)), min_size=2))
def test_no_rise_is_taken_back_before_the_batch_has_settled(wishes):
    held, now_s, rose_s, before = HeldLevel(), 0.0, -math.inf, None
    cost_w = np.linspace(100.0, 400.0, 10)
    for index, gap_s in wishes:
        now_s += gap_s
        taken = held.hold(index, cost_w, now_s)
        if before is not None and taken > before:
            rose_s = now_s
        assert before is None or taken >= before or now_s - rose_s >= SETTLING_S
        before = taken


def test_a_rise_is_taken_back_at_its_price_while_the_batch_fills():
    """It grows at either level, so that there is nothing to settle."""
    cost_w = np.array([100.0, 200.0])
    back_s = {}
    for fills in (False, True):
        held = HeldLevel(0.1)
        held.hold(0, cost_w, 0.0)
        held.hold(1, cost_w, 0.1)
        steps = (0.1 + 0.02 * step for step in range(1, 400))
        back_s[fills] = next(
            now_s for now_s in steps if not held.hold(0, cost_w, now_s, fills=fills)
        )
    assert back_s[False] > 0.1 + SETTLING_S
    assert back_s[True] == pytest.approx(0.3, abs=0.05)  # half of the power for 0.2 s


@pytest.mark.parametrize(
    ("field", "value"),
    [("capacity_tokens", 0.0), ("reserved_tokens", -1.0), ("max_requests", 0.0)],
)
def test_memory_out_of_range_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        Memory(**{field: value})


def test_what_was_not_seen_since_waking_fades_from_an_average():
    envelope = DemandEnvelope()
    assert envelope.unseen(1e6) == 1.0
    for step in range(100):
        now_s = 100.0 + 0.2 * step
        envelope.note(5, now_s)
        assert envelope.unseen(now_s) == pytest.approx(math.exp(-0.2 * step / DEMAND_S))
    assert envelope.unseen(99.0) == 1.0  # a time that went back
    envelope.note(0, 121.0)
    envelope.note(5, 122.0)
    assert envelope.unseen(122.0) == 1.0
