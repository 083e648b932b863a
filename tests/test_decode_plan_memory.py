"""The plan of admissible decode levels where memory ends the batch, and requests wait for room."""

from __future__ import annotations

import math
import time

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tiled_plant import LEVELS, Tiled, plan, table
from voltana.controllers.decode_demand import MOST_IN_MEMORY
from voltana.controllers.finding_room import late_share, most_on_average
from voltana.controllers.within_error import within_error
from voltana.values import IntendedDemand
from voltana.viability import served_per_s


def test_the_end_of_the_memory_keeps_room_for_what_could_not_wait():
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    demand = 0.99 * float(served_per_s(made)[10])
    tight, at_ease = (plan(made, demand, burst=10.0, affordable=a) for a in (0.0, 1.0))
    assert at_ease.settling == plan(made, demand, burst=0.0).settling <= 10
    assert tight.settling > at_ease.settling
    assert served_per_s(made, 110.0)[tight.settling] >= demand


def settled(made, demand, level):
    """Requests that run on average at a level that serves the demand, by Little's law."""
    row = int((made.rate_per_s[:, level] >= demand).argmax())
    return min(demand * made.mean_s[row, level], made.batches[row])


def late_at_fastest(made, demand, affordable, shared=1.0):
    """Share of those that find no room in time where the fastest level always runs."""
    places, most = math.ceil(120 * shared - 1e-9), shared * float(made.rate_per_s[-1, -1])
    mean = shared * settled(made, demand, -1)
    return late_share(places, mean, shared * demand, most, affordable=affordable)


@given(st.floats(1e-4, 0.3), st.floats(0.3, 0.99), st.sampled_from([0.0, 1e-3]))
def test_the_end_of_the_memory_makes_few_more_late_than_the_fastest_level(late, share, affordable):
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    most = float(made.rate_per_s[-1, -1])
    demand = share * most
    decided = plan(made, demand, affordable=affordable, late=late)
    mean = settled(made, demand, decided.settling)
    waits = late_share(120, mean, demand, most, affordable=affordable)
    assert waits <= late + late_at_fastest(made, demand, affordable) + 1e-9


def test_what_a_full_memory_does_not_serve_is_no_excuse_for_a_slower_level():
    """The last tile is hardly begun: a smaller batch serves more, but the memory will fill."""
    made = table(Tiled(), capacity=136 * 300.0)
    full, most = float(made.rate_per_s[-1, -1]), float(made.rate_per_s[:, -1].max())
    assert full < 0.9 * most
    for demand in np.linspace(full, 0.99 * most, 9):
        decided = plan(made, float(demand), affordable=1e-3, late=0.01, error=0.001)
        assert decided.settling == len(LEVELS) - 1


@given(st.floats(0.3, 0.99), st.floats(0.0, 0.5))
def test_of_a_few_requests_errors_ask_for_so_much_more_memory_at_most(share, error):
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    demand = share * float(made.rate_per_s[-1, -1])
    decided = plan(made, demand, affordable=1.0, late=1.0, error=error)
    if share * (1.0 + min(2.0 * error, MOST_IN_MEMORY)) > 1.0:
        assert decided.settling == len(LEVELS) - 1
    else:
        assert decided.settling <= plan(made, demand, affordable=1.0).settling


@given(
    st.floats(1e-4, 0.3), st.floats(0.0, 30.0), st.floats(0.3, 0.99), st.sampled_from([0.0, 1e-3])
)
def test_the_end_of_the_memory_keeps_room_for_chance_and_for_a_burst(
    late, burst, share, affordable
):
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    most = float(made.rate_per_s[-1, -1])
    demand = share * most
    allowed = late + late_at_fastest(made, demand, affordable)
    chance = most_on_average(120, demand, most, late=allowed, affordable=affordable)
    mean = min(chance, 120.0 - burst + affordable * most)
    enough = served_per_s(made, mean) >= demand
    decided = plan(made, demand, burst=burst, affordable=affordable, late=late)
    assert decided.settling == (int(enough.argmax()) if enough.any() else len(LEVELS) - 1)


@given(st.floats(1e-4, 0.3), st.floats(0.0, 0.1), st.floats(0.5, 0.9))
def test_as_much_more_as_may_be_demanded_finds_room_as_well(late, error, share):
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    most = float(made.rate_per_s[-1, -1])
    demand = share * most
    at_most = (1.0 + min(2.0 * error, MOST_IN_MEMORY)) * demand
    decided = plan(made, demand, affordable=1e-3, late=late, error=error)
    if at_most >= most:
        assert decided.settling == len(LEVELS) - 1
        return
    allowed = late + late_at_fastest(made, at_most, 1e-3)
    mean = most_on_average(120, at_most, most, late=allowed, affordable=1e-3)
    mean = min(mean, 120.0 - 10.0 + 1e-3 * most)
    wanted = np.array([1.0 - error, 1.0, 1.0 + error]) * demand
    enough = served_per_s(made, mean) >= wanted[:, None]
    assert decided.settling == within_error(enough, 0)


@example(2, 0.00390625, 1e-4, 0.0, 0.484375)  # half a place more for the two of them
@example(2, 1.0, 0.0625, 0.0, 0.96875)  # near saturation
@given(
    st.integers(2, 6), st.floats(0, 2), st.floats(1e-4, 0.3), st.floats(0, 30), st.floats(0.3, 0.99)
)
def test_whom_a_router_holds_back_finds_room_in_the_whole_pool(instances, held, late, burst, share):
    made, affordable = table(Tiled(), capacity=36_000.0), 1e-3  # 120 requests each
    most = float(made.rate_per_s[-1, -1])
    demand = share * most
    shared = 1.0 + (instances - 1) * min(held, 1.0)  # instances that are one queue
    options = {"late": late, "affordable": affordable}
    places = math.ceil(120 * shared - 1e-9)
    allowed = late + late_at_fastest(made, demand, affordable, shared)
    chance = most_on_average(
        places, shared * demand, shared * most, late=allowed, affordable=affordable
    )
    mean = min(chance / shared, 120.0 - burst / math.sqrt(shared) + affordable * most)
    enough = served_per_s(made, mean) >= demand
    intended = IntendedDemand(pool_per_s=instances * demand, share=1.0 / instances)
    decided = plan(made, demand, burst=burst, intended=intended, held=held * affordable, **options)
    assert decided.settling == (int(enough.argmax()) if enough.any() else len(LEVELS) - 1)
    # As late as the fastest makes them may be: one that is alone may be late more often then.
    if late_at_fastest(made, demand, affordable) <= late:
        alone = plan(made, demand, burst=burst, intended=intended, **options)
        assert decided.settling <= alone.settling


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
    plan(made, demand, intended=intended, held=held, affordable=affordable, late=1e-6)
    assert time.process_time() - began_s < 0.05


@given(st.integers(1, 120), st.integers(0, len(LEVELS) - 1))
def test_a_batch_within_a_tile_serves_its_share_of_it(most, level):
    made = table(Tiled(), capacity=36_000.0)
    row = made.row(most)
    best = served_per_s(made, most)[level]
    assert best >= most / made.mean_s[row, level] * (1 - 1e-12)
    assert best <= served_per_s(made, made.batches[row])[level]
