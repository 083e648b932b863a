"""The plan of admissible decode levels where memory ends the batch, and requests wait for room."""

from __future__ import annotations

import math
import time

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tiled_plant import LEVELS, Cubic, Tiled, plan, table
from voltana.controllers.decode_demand import MOST_IN_MEMORY
from voltana.controllers.decode_plan import NO_PLAN, SPARE
from voltana.values import Binding, IntendedDemand
from voltana.viability import served_per_s

FASTEST = len(LEVELS) - 1
PLACES = 120


def memory_of(places=PLACES):
    return table(Tiled(), capacity=places * 300.0)


def room_plan(made, demand, in_force=NO_PLAN, **options):
    """The plan that plans come to, one after the other."""
    for _ in range(12):
        in_force = plan(
            made, demand, **({"affordable": 1e-3, "power": Cubic()} | options), in_force=in_force
        )
    return in_force


def levels(decided, batches=range(1, PLACES + 1)):
    return [decided.lowest(batch)[0] for batch in batches]


@settings(deadline=None)
@given(st.floats(0.1, 1.3), st.floats(0.0, 0.05), st.floats(2.0, 300.0))
def test_the_fuller_the_places_the_faster_the_level(share, affordable, price):
    made = memory_of()
    decided = room_plan(made, share * served(made), affordable=affordable, price=price)
    found = levels(decided)
    assert found == sorted(found)
    assert decided.end is Binding.MEMORY
    assert decided.places == PLACES
    beyond = decided.lowest(PLACES + 50)  # contexts of the moment are shorter than those that last
    assert beyond[0] == found[-1]
    assert {decided.lowest(b)[1] for b in (1, 60, PLACES)} <= {Binding.MEMORY, Binding.NONE}


def served(made):
    """Tokens/s that the fastest level serves with all places taken."""
    return float(made.rate_per_s[-1, -1])


def test_a_few_free_places_run_faster_and_many_slower_than_one_level_for_all():
    made = memory_of()
    demand = 0.8 * served(made)
    decided = room_plan(made, demand)
    assert decided.lowest(40)[0] < decided.settling < decided.lowest(PLACES)[0]


def test_the_less_may_wait_and_the_dearer_it_is_the_more_places_are_kept_free():
    made = memory_of()
    demand = 0.8 * served(made)
    cheap, dear = (sum(levels(room_plan(made, demand, price=p))) for p in (5.0, 300.0))
    tight, at_ease = (sum(levels(room_plan(made, demand, affordable=a))) for a in (0.0, 0.01))
    assert cheap < dear
    assert at_ease < tight


def test_what_a_full_memory_does_not_serve_is_no_excuse_for_a_slower_level():
    """The last tile is hardly begun: a smaller batch serves more, but the memory will fill."""
    made = memory_of(136)
    full, most = served(made), float(made.rate_per_s[:, -1].max())
    assert full < 0.9 * most
    for demand in np.linspace(full, 0.99 * most, 9):
        decided = room_plan(made, float(demand), error=0.001)
        assert decided.lowest(136)[0] == FASTEST


@settings(deadline=None)
@given(st.floats(0.3, 0.99), st.floats(0.0, 0.5))
def test_of_a_few_requests_errors_ask_for_so_much_more_memory_at_most(share, error):
    made = memory_of()
    demand = share * served(made)
    found = levels(room_plan(made, demand, error=error))
    if share * (1.0 + min(2.0 * error, MOST_IN_MEMORY)) > 1.0:
        assert found[0] == FASTEST
    elif share * (1.0 + SPARE) < 1.0:
        assert found == levels(room_plan(made, demand, error=1.0))  # however little is known


@settings(deadline=None)
@given(st.floats(0.3, 0.99), st.floats(0.0, 1.0))
def test_near_saturation_no_batch_takes_a_level_that_would_not_settle(share, unseen):
    """Nor where so much of the demand has yet to be seen that it may be near."""
    made = memory_of()
    demand = share * served(made)
    decided = room_plan(made, demand, unseen=unseen)
    slowest = served_per_s(made)[decided.lowest(1)[0]]
    if share * (1.0 + max(SPARE, unseen)) > 1.0:
        assert slowest >= demand
    elif slowest >= demand:
        assert decided.lowest(1)[0] == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.floats(0.0, 2.0), st.floats(0.3, 0.89))
def test_whom_a_router_holds_back_finds_room_in_the_whole_pool(instances, held, share):
    made, affordable = memory_of(), 1e-3
    demand = share * served(made)
    intended = IntendedDemand(pool_per_s=instances * demand, share=1.0 / instances)
    options = {"intended": intended, "affordable": affordable, "price": 20.0}
    shared = room_plan(made, demand, held=held * affordable, **options)
    alone = room_plan(made, demand, **options)
    assert sum(levels(shared)) <= 1.05 * sum(levels(alone)) + 0.1 * PLACES  # cells are coarse


def test_where_nobody_knows_of_waits_or_power_the_level_that_settles_is_taken():
    made = memory_of()
    demand = 0.8 * served(made)
    for decided in (plan(made, demand, affordable=1e-3), plan(made, demand, power=Cubic())):
        assert set(levels(decided)) == {decided.settling}
        assert decided.places == math.inf


@settings(deadline=None)
@example(5e-324, 1e-12, 1e-12)
@example(1e-9, 1e-12, 1e-12)
@example(0.25, math.inf, math.inf)
@given(
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 1e-12, 1e-3, math.inf]),
    st.sampled_from([1e-12, 1e-3, math.inf]),
)
def test_whatever_share_a_router_intends_a_plan_is_made_in_time(share, held, affordable):
    """It is a number of a message: of 1e-9 a plan took a second, and others raised."""
    made = table(Tiled(), capacity=36_000.0)
    demand = 0.97 * float(made.rate_per_s[-1, -1])
    intended = IntendedDemand(pool_per_s=demand, share=share)
    began_s = time.process_time()
    room_plan(made, demand, intended=intended, held=held, affordable=affordable)
    assert time.process_time() - began_s < 0.05


@given(st.integers(1, 120), st.integers(0, len(LEVELS) - 1))
def test_a_batch_within_a_tile_serves_its_share_of_it(most, level):
    made = table(Tiled(), capacity=36_000.0)
    row = made.row(most)
    best = served_per_s(made, most)[level]
    assert best >= most / made.mean_s[row, level] * (1 - 1e-12)
    assert best <= served_per_s(made, made.batches[row])[level]
