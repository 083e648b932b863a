"""The plan of admissible decode levels: what settles, the barrier, coasting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tiled_plant import LEVELS, OWED, Cliff, Cubic, Tiled, Unknown, asked, plan, table
from voltana.controllers.decode_demand import SURE, DecodeDemand, WaitsForRoom
from voltana.controllers.decode_plan import NO_PLAN
from voltana.controllers.held_back import held_back
from voltana.values import Binding, IntendedDemand, Load
from voltana.viability import largest_viable_batch, served_per_s, tabulate


@settings(max_examples=150, deadline=None)
@example(0.005, 0.004, 0.75, 31.0, 1.0, 0, False, None)  # ends of memory
@example(
    0.005, 0.0078125, 0.75, 16.0, 1.0, 0, False, None
)  # the fastest level serves more behind the end
@given(
    st.floats(0.005, 0.03),
    st.floats(0.004, 0.02),
    st.floats(0.3, 0.97),
    st.floats(2.0, 40.0),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.none() | st.floats(0.0, 2.0),
)
def test_from_a_viable_state_the_state_stays_viable(  # noqa: PLR0917  (drawn by Hypothesis)
    base_s, tile_s, share, burst, start, seed, coasts, intended
):
    """Whatever arrives within the envelope: the statement of docs/viability.md, in fluid steps."""
    model = Tiled(base_s, tile_s)
    made = table(model)
    viable = largest_viable_batch(made)
    if viable <= 2 * burst:
        return
    demand = share * float(made.rate_per_s[made.row(viable), -1])
    if not ends_in_a_trap(made, viable, burst, demand):
        return
    most = viable - burst
    draws = np.random.default_rng(seed)
    batch, credit, step_s = start * most, burst, 0.02
    options = {"burst": burst}
    if intended is not None:  # whatever a router says: what comes keeps the envelope alone
        options["intended"] = asked(intended * demand)
    in_force = plan(made, demand, **options)
    for step in range(1500):
        if coasts and not step % 10:
            in_force = plan(made, demand, **options, batch=math.ceil(batch), power=Cubic())
        index, _binding = in_force.lowest(math.ceil(batch))
        row = made.row(batch)
        rate = batch / float(made.mean_s[row, index])
        # Adversarial arrivals: what the envelope allows at once, now and then, else nothing.
        come = credit * draws.choice([0.0, 0.2, 1.0], p=[0.6, 0.3, 0.1])
        credit = min(credit - come + demand * step_s / OWED, burst)
        batch = max(batch + come - rate * step_s / OWED, 0.0)
        assert batch <= viable + demand * step_s / OWED


def ends_in_a_trap(made, viable, burst, demand):
    """Whether states are viable for the envelope, and none is that lies beyond."""
    rate_per_s = made.rate_per_s[:, -1]
    inside = (made.batches >= viable - burst - 8) & (made.batches <= viable)
    if (rate_per_s[inside] * (1 - 8 / made.batches[inside]) < demand).any():
        return False  # a tile ends within the burst: no state is viable
    beyond = (made.batches > viable) & (made.batches < viable + burst + 8)
    next_tile = made.batches.searchsorted(viable, side="right")
    if next_tile == len(made.batches):
        return False  # the end is the memory's: requests wait for room
    padded_per_s = rate_per_s[next_tile] * viable / made.batches[next_tile]
    return padded_per_s < demand or bool((rate_per_s[beyond] < demand).any())


@settings(max_examples=100, deadline=None)
@given(
    st.floats(0.3, 0.97),
    st.floats(2.0, 40.0),
    st.floats(0.02, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_what_a_router_holds_at_the_boundary_waits_no_longer_than_it_may(
    served, burst, may_wait_s, seed
):
    """Whatever comes within the envelope, let in while the batch is viable."""
    made = table(Tiled())
    viable = largest_viable_batch(made)
    most_per_s = float(made.rate_per_s[made.row(viable), -1])
    demand = served * most_per_s
    if not ends_in_a_trap(made, viable, burst, demand):
        return
    in_force = plan(made, demand, burst=burst, held=may_wait_s / OWED)
    draws = np.random.default_rng(seed)
    step_s = 0.02
    batch, credit, came, entered = 0.5 * viable, burst, [], 0.0
    for _step in range(1500):
        index, _binding = in_force.lowest(math.ceil(batch))
        batch -= batch / float(made.mean_s[made.row(batch), index]) * step_s / OWED
        come = credit * draws.choice([0.0, 0.2, 1.0], p=[0.6, 0.3, 0.1])
        credit = min(credit - come + demand * step_s / OWED, burst)
        came.append((came[-1] if came else 0.0) + come)
        let_in = min(came[-1] - entered, viable - batch)
        batch, entered = batch + let_in, entered + let_in
        ago = math.ceil(may_wait_s / step_s) + 2
        assert entered >= (came[-1 - ago] if len(came) > ago else 0.0) - 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5),
    st.floats(0.55, 0.8),
    st.floats(2.0, 40.0),
    st.floats(0.02, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_what_a_router_holds_for_the_first_that_has_room_waits_no_longer_either(
    instances, served, burst, may_wait_s, seed
):
    """Of the pool's burst each instance keeps its part free."""
    made = table(Cliff(beyond_s=0.12), threshold_s=0.065)
    viable = largest_viable_batch(made)
    most_per_s = float(made.rate_per_s[made.row(viable), -1])
    demand = served * most_per_s
    if not ends_in_a_trap(made, viable, burst, demand):
        return
    held = may_wait_s / OWED
    pooled = IntendedDemand(pool_per_s=instances * demand, share=1.0 / instances)
    in_force = plan(made, demand, burst=burst, held=held, affordable=held, intended=pooled)
    draws = np.random.default_rng(seed)
    step_s, of_pool = 0.02, instances * burst * math.sqrt((1.0 + 1.0 / instances) / 2.0)
    batches, credit, came, entered = np.full(instances, 0.5 * viable), of_pool, [], 0.0
    for _step in range(1500):
        for i, batch in enumerate(batches):
            index, _binding = in_force.lowest(math.ceil(batch))
            batches[i] -= batch / float(made.mean_s[made.row(batch), index]) * step_s / OWED
        come = credit * draws.choice([0.0, 0.2, 1.0], p=[0.6, 0.3, 0.1])
        credit = min(credit - come + instances * demand * step_s / OWED, of_pool)
        came.append((came[-1] if came else 0.0) + come)
        let_in = min(came[-1] - entered, float((viable - batches).sum()))
        batches += let_in / instances  # to the least loaded: they are alike
        entered += let_in
        ago = math.ceil(may_wait_s / step_s) + 2
        assert entered >= (came[-1 - ago] if len(came) > ago else 0.0) - 1e-6


def test_half_of_the_variance_of_a_burst_is_common_to_those_that_share_a_queue():
    def let_in(instances, held=0.001):
        pooled = IntendedDemand(pool_per_s=900.0 * instances, share=1.0 / instances)
        asks = DecodeDemand(now_per_s=900.0, burst=40.0, intended=pooled)
        return WaitsForRoom(affordable=0.001, held=held).let_in(asks, 2000.0)

    assert let_in(1) == 38.0
    assert let_in(4) == pytest.approx(40.0 * math.sqrt(5 / 8) - 2.0)
    assert let_in(4, held=0.0005) == pytest.approx(40.0 * math.sqrt(7 / 10) - 1.0)  # as of 2.5
    assert let_in(4, held=0.0) == 40.0


def test_a_barrier_is_as_high_as_ever_where_nothing_may_wait():
    made, demand = table(Tiled()), 4000.0
    alone, hardly, at_ease = (plan(made, demand, burst=60.0, held=h) for h in (0.0, 1e-9, 0.002))
    assert alone.slowest == hardly.slowest
    near = int(alone.viable_batch) - 30
    assert at_ease.lowest(near)[0] < alone.lowest(near)[0]


@example(0.765625, 2.0, 36.0)  # what lasts has a barrier of its own, where the end traps
@given(st.floats(0.2, 0.9), st.floats(1.0, 3.0), st.floats(2.0, 40.0))
def test_what_a_router_fills_an_instance_with_is_kept_at_the_end_alone(lasts, times, burst):
    """Before that only what is to last asks for a level, however much comes meanwhile."""
    made = table(Tiled())
    most = float(served_per_s(made)[-1])
    options = {"burst": burst, "intended": asked(lasts * most)}
    fills, settles, overflows = (
        plan(made, comes * most, **options) for comes in (times * lasts, lasts, 4.0)
    )
    before = made.batches < fills.viable_batch - burst
    slowest, settled, barred = (np.array(p.slowest)[before] for p in (fills, settles, overflows))
    assert slowest.tolist() in (settled.tolist(), barred.tolist())  # as far as the end traps
    assert (settled <= slowest).all()
    if times * lasts >= 1.0:
        assert slowest.tolist() == barred.tolist()
        inside = ~before & (made.batches <= fills.viable_batch)
        assert (np.array(fills.slowest)[inside] == len(LEVELS) - 1).all()


@given(st.floats(10.0, 6000.0), st.floats(0.0, 0.2), st.floats(2.0, 40.0))
def test_a_batch_that_fills_grows_at_the_level_that_settles(demand, slack, burst):
    made = table(Tiled())
    in_force = plan(made, demand, slack=slack, burst=burst)
    grows = made.rate_per_s[:, in_force.settling] < (1.0 + slack) * demand
    assert grows[made.batches < in_force.fills_below + burst].all()
    if served_per_s(made)[in_force.settling] < (1.0 + slack) * demand:
        assert in_force.fills_below == 0.0  # there it never settles


@given(st.floats(10.0, 6000.0), st.floats(0.0, 0.2))
def test_the_settling_level_is_the_slowest_that_serves(demand, slack):
    made = table(Tiled())
    in_force = plan(made, demand, slack=slack)
    served = served_per_s(made)
    wanted = demand * (1.0 + slack)
    if (served >= wanted).any():
        assert served[in_force.settling] >= wanted
        assert in_force.settling == 0 or served[in_force.settling - 1] < wanted
    else:
        assert in_force.settling == len(LEVELS) - 1


@given(st.floats(10.0, 6000.0), st.integers(1, 1000), st.integers(0, 300))
def test_a_larger_batch_before_a_trap_never_means_a_slower_level(demand, batch, more):
    made = table(Tiled())
    in_force = plan(made, demand)
    if batch + more > in_force.viable_batch:
        assert in_force.lowest(batch + more) == (-1, Binding.VIABILITY)


def test_a_level_that_serves_the_demand_within_its_error_stays():
    made = table(Tiled())
    first = plan(made, 3000.0)
    assert plan(made, 3060.0, error=0.05, in_force=first).settling == first.settling
    assert plan(made, 2940.0, error=0.05, in_force=first).settling == first.settling
    assert plan(made, 4000.0, error=0.05, in_force=first).settling > first.settling
    assert plan(made, 2000.0, error=0.05, in_force=first).settling < first.settling


def test_no_level_is_raised_for_a_demand_that_is_no_average_yet():
    """Of a few seconds few arrivals are known; falling waits for no more than before."""
    made = table(Tiled())
    first, known, early = plan(made, 3000.0), {"error": 0.05}, {"error_by_now": 0.3}
    assert plan(made, 3800.0, **known, in_force=first).settling > first.settling
    assert plan(made, 3800.0, **known, **early, in_force=first).settling == first.settling
    assert plan(made, 6000.0, **known, **early, in_force=first).settling > first.settling
    fallen = plan(made, 2000.0, **known, in_force=first)
    assert plan(made, 2000.0, **known, **early, in_force=first).settling == fallen.settling


@given(st.floats(200.0, 6000.0), st.floats(0.0, 0.3))
def test_what_the_fastest_level_hardly_serves_is_put_off_by_none(demand, error):
    made = table(Tiled())
    hardly = (1.0 + SURE * error) * demand > served_per_s(made)[-1]
    settling = plan(made, demand, error=error).settling
    if hardly:
        assert settling == len(LEVELS) - 1
    else:  # the level in force is the slowest, which stays within the error
        assert settling <= plan(made, demand).settling


def test_the_less_was_seen_the_more_has_to_be_served_before_a_batch_coasts():
    made = table(Tiled())
    most = float(served_per_s(made)[-1])

    def coasts(share, unseen):
        asked = {"batch": 8, "power": Cubic(), "unseen": unseen}
        in_force = plan(made, share * most, **asked)
        return in_force.slowest[0] < in_force.settling

    assert [coasts(0.8, unseen) for unseen in (0.0, 0.2, 0.3, 1.0)] == [True, True, False, False]
    assert [coasts(0.6, unseen) for unseen in (0.0, 0.3, 0.5, 1.0)] == [True, True, True, False]


def test_the_end_of_the_viable_batches_is_named():
    assert plan(table(Tiled()), 5000.0).end is Binding.BOUNDARY
    assert plan(table(Tiled(), capacity=30_000.0), 2000.0).end is Binding.MEMORY
    assert plan(table(Tiled(), threshold_s=0.001), 10.0).end is Binding.THRESHOLD
    unknown = tabulate(Unknown(), LEVELS, context_tokens=1.0, threshold_s=0.06, max_requests=64.0)
    assert plan(unknown, 10.0) is NO_PLAN


@example(4989.0, 14, 0.0)  # the barrier is all that is slower than what settles
@given(st.floats(200.0, 6000.0), st.integers(1, 500), st.floats(0.0, 0.2))
def test_coasting_puts_off_what_it_serves_more_cheaply_later(demand, batch, error):
    made = table(Tiled())
    steady = plan(made, demand, error=error)
    coasts = plan(made, demand, error=error, batch=batch, power=Cubic())
    served = served_per_s(made)[-1]
    assert coasts.settling == steady.settling
    slower = [c < s for c, s in zip(coasts.slowest, steady.slowest, strict=True)]
    assert all(c <= s for c, s in zip(coasts.slowest, steady.slowest, strict=True))
    if (1.0 + SURE * error) * demand > served:
        assert not any(slower)
    rows = made.rate_per_s[:, steady.settling] >= demand
    if rows.any():  # nothing is put off from a burst below the settled batch on
        settled = made.batches[int(rows.argmax())] - 10.0
        assert not any(slower[row] for row in np.flatnonzero(made.batches >= settled))
    barrier = barrier_of(made, demand, coasts.viable_batch, burst=10.0)
    free = [
        level
        for level, least, puts_off in zip(coasts.slowest, barrier, slower, strict=True)
        if puts_off and (level > least or not least)
    ]
    if free:
        row = made.row(batch)
        share = batch / made.batches[row]
        put_off = demand - share * made.rate_per_s[row]
        watts = Cubic().forecast_w(Load.decode(batch, batch * 300), LEVELS)
        chosen = free[0]
        assert set(free) == {chosen}
        goal = Cubic().forecast_w(
            Load.decode(math.ceil(demand * made.mean_s[int(rows.argmax()), steady.settling]), 1),
            LEVELS[steady.settling : steady.settling + 1],
        )[0]
        for other in np.flatnonzero(put_off[: steady.settling + 1] > 0.0):
            best = (goal - watts[chosen]) / put_off[chosen]
            assert best >= (goal - watts[other]) / put_off[other] - 1e-2


def barrier_of(made, demand, viable, burst):
    """The slowest level of each row by the barrier, as if every end trapped."""
    most_per_s = float(made.rate_per_s[made.row(viable), -1]) if viable < math.inf else math.inf
    ramp = (made.batches - (viable - burst)) / burst
    keeps = made.rate_per_s >= (demand + max(most_per_s - demand, 0.0) * ramp)[:, None]
    keeps[:, -1] = True
    return keeps.argmax(axis=1).tolist()


@given(st.floats(150.0, 700.0), st.integers(8, 500))
def test_no_more_is_planned_than_boards_at_their_limit_serve(limit_w, batch):
    made = table(Tiled())
    held = held_back(made, Cubic(), batch, limit_w)
    watts = Cubic().forecast_w(Load.decode(batch, batch * 300), LEVELS)
    assert (held.mean_s >= made.mean_s).all()
    below = watts <= limit_w
    if below[0]:
        assert (held.mean_s[:, below] == made.mean_s[:, below]).all()
    if below[0] and not below[-1]:
        last = int(below.argmin())
        assert (held.mean_s[:, last:] >= made.mean_s[:, last:]).all()
        assert (held.mean_s[:, -1] <= made.mean_s[:, last - 1]).all()
        assert (held.rate_per_s[:, -1] == held.rate_per_s[:, last]).all()
