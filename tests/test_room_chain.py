"""The level of every batch where requests wait for room, against the chain it stands for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiled_plant import LEVELS, Cubic, Tiled, table
from voltana.controllers.room_chain import Room, room_levels
from voltana.values import Load

PLACES = 24.0
SLOWEST, FASTEST = 0, len(LEVELS) - 1


def made(places=PLACES):
    return table(Tiled(), capacity=places * 300.0)


def solved(made_table, room, price, steps=40):
    """The levels that the iteration comes to, plan after plan."""
    levels = room_levels(made_table, Cubic(), room, price, lambda _batch: FASTEST)
    for _ in range(steps):
        before = levels
        levels = room_levels(made_table, Cubic(), room, price, at(before))
    return levels


def at(known):
    return lambda batch: int(
        known.levels[min(known.batches.searchsorted(batch), len(known.levels) - 1)]
    )


def cost_w(made_table, room, price, level_of):
    """Mean power and the price of late requests, of the birth-death chain, request by request."""
    places, waiting = round(room.sharing * room.places), math.floor(room.sharing * room.waiting)
    come_per_s = room.sharing * room.demand_per_s
    states = np.arange(places + waiting + 1)
    served, watts = np.zeros(len(states)), np.zeros(len(states))
    for state in states:
        batch = min(state, places) / room.sharing
        row, level = made_table.row(batch), level_of(math.ceil(batch))
        share = batch / made_table.batches[row]
        served[state] = room.sharing * share * made_table.rate_per_s[row, level]
        load = Load.decode(max(math.ceil(batch), 1), 1)
        watts[state] = room.sharing * Cubic().forecast_w(load, LEVELS)[level]
    steps = np.log(come_per_s / served[1:])
    exponents = np.concatenate([[0.0], steps.cumsum()])
    likely = np.exp(exponents - exponents.max())
    likely /= likely.sum()
    full_per_s = room.sharing * made_table.rate_per_s[-1, -1]
    full_w = room.sharing * Cubic().forecast_w(Load.decode(round(room.places), 1), LEVELS)[-1]
    late_w = price * full_w / full_per_s * come_per_s * likely[-1]
    return float(likely @ watts) + late_w


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([8.0, 24.0, 60.0]),
    st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    st.floats(0.2, 1.2),
    st.floats(0.0, 6.0),
    st.floats(2.0, 300.0),
)
def test_no_level_for_all_batches_costs_less(places, sharing, share, waiting, price):
    known = made(places)
    room = Room(places, sharing, share * float(known.rate_per_s[-1, -1]), waiting)
    levels = solved(known, room, price)
    ours = cost_w(known, room, price, at(levels))
    constant = min(
        cost_w(known, room, price, lambda _batch, level=level: level)
        for level in range(len(LEVELS))
    )
    assert ours <= constant * 1.01


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 1.1), st.floats(2.0, 300.0), st.integers(0, 2**32 - 1))
def test_no_other_levels_that_rise_with_the_batch_cost_less(share, price, seed):
    known = made()
    room = Room(PLACES, 1.0, share * float(known.rate_per_s[-1, -1]), 2.0)
    ours = cost_w(known, room, price, at(solved(known, room, price)))
    draws = np.random.default_rng(seed)
    for _ in range(20):
        other = np.sort(draws.integers(0, len(LEVELS), round(PLACES) + 1))
        assert ours <= cost_w(known, room, price, lambda b, o=other: int(o[b])) * 1.01


@given(st.floats(0.05, 3.0), st.floats(0.0, 9.0), st.floats(0.1, 1e6))
def test_a_fuller_batch_never_takes_a_slower_level(share, waiting, price):
    known = made()
    room = Room(PLACES, 1.0, share * float(known.rate_per_s[-1, -1]), waiting)
    found = room_levels(known, Cubic(), room, price, lambda _batch: FASTEST)
    assert (np.diff(found.levels) >= 0).all()
    assert (np.diff(found.batches) > 0).all()
    assert found.batches[-1] == PLACES
    assert 0.0 <= found.usual <= PLACES


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(0.0, 6.0))
def test_a_higher_price_takes_no_slower_levels_where_it_matters(share, waiting):
    known = made()
    room = Room(PLACES, 1.0, share * float(known.rate_per_s[-1, -1]), waiting)
    late = [late_share(known, room, at(solved(known, room, price))) for price in (2.0, 20.0, 200.0)]
    for cheap, dear in itertools.pairwise(late):
        assert dear <= cheap * 1.05 + 1e-6


def late_share(known, room, level_of):
    """Share of the time in which whoever comes is late."""
    places, waiting = round(room.places), math.floor(room.waiting)
    exponent = [0.0]
    for state in range(1, places + waiting + 1):
        batch = min(state, places)
        row = known.row(batch)
        served = batch / known.batches[row] * known.rate_per_s[row, level_of(batch)]
        exponent.append(exponent[-1] + math.log(room.demand_per_s / served))
    likely = np.exp(np.array(exponent) - max(exponent))
    return float(likely[-1] / likely.sum())


def test_a_pool_keeps_fewer_places_free_than_its_instances_would_alone():
    known = made(60.0)
    demand = 0.85 * float(known.rate_per_s[-1, -1])
    alone, pooled = (solved(known, Room(60.0, k, demand, 1.0), 20.0) for k in (1.0, 4.0))
    half = 45
    assert at(pooled)(half) < at(alone)(half)


def test_beyond_what_can_be_served_full_batches_run_at_the_fastest_level():
    known = made()
    most = float(known.rate_per_s[-1, -1])
    for share in (1.0, 1.05, 1.5, 10.0):
        found = solved(known, Room(PLACES, 1.0, share * most, 1.0), 30.0)
        assert found.levels[-1] == FASTEST


@pytest.mark.parametrize("demand", [0.0, 1e-9, 1e12])
@pytest.mark.parametrize("places", [1.0, 2.0, 3000.0])
@pytest.mark.parametrize("sharing", [1.0, 1024.0])
@pytest.mark.parametrize("waiting", [0.0, 0.5, 1.0, 3000.0])
def test_whatever_is_asked_levels_are_found(demand, places, sharing, waiting):
    known = table(Tiled(), capacity=places * 300.0, most=4096.0, threshold_s=10.0)
    with np.errstate(all="raise", under="ignore"):
        found = room_levels(known, Cubic(), Room(places, sharing, demand, waiting), 20.0, int)
    assert np.isfinite(found.batches).all()
    assert ((found.levels >= 0) & (found.levels <= FASTEST)).all()


def test_no_level_is_taken_that_keeps_no_threshold_but_the_fastest():
    known = table(Tiled(), capacity=PLACES * 300.0, threshold_s=0.045)
    most = float(known.rate_per_s[-1, -1])
    late = (known.upper_s > known.threshold_s).any(axis=0)
    assert late[SLOWEST] and not late[FASTEST]
    for share in (0.1, 0.5, 0.9):
        found = solved(known, Room(PLACES, 1.0, share * most, 1.0), 20.0)
        assert not late[found.levels].any()
    never = table(Tiled(), capacity=PLACES * 300.0, threshold_s=0.001)
    found = solved(never, Room(PLACES, 1.0, 0.5 * most, 1.0), 20.0)
    assert (found.levels == FASTEST).all()
