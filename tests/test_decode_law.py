"""The decode law: demand envelope, price of misses, plan of admissible levels, held level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voltana.controllers.decode_plan import NO_PLAN, SURE, make_plan
from voltana.controllers.demand_envelope import BROKEN, DEMAND_S, STEP, DemandEnvelope
from voltana.controllers.finding_room import most_on_average
from voltana.controllers.held_back import held_back
from voltana.controllers.held_level import SETTLING_S, HeldLevel
from voltana.controllers.memory import Memory
from voltana.controllers.missed_price import MOST, MissedPrice
from voltana.errors import ConfigError
from voltana.values import Binding, Forecast, IntendedDemand, Load
from voltana.viability import largest_viable_batch, served_per_s, tabulate

LEVELS = np.linspace(600.0, 1410.0, 28)
OWED = 200.0


class Tiled:
    """Iterations that take `base_s`, and `tile_s` for each tile of 128 at the fastest clock."""

    def __init__(self, base_s=0.02, tile_s=0.015):
        self.base_s, self.tile_s = base_s, tile_s

    def forecast(self, load, clocks_mhz):
        tiles = -(-load.decode_requests // 128)
        mean_s = self.base_s + self.tile_s * tiles * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


def table(model, threshold_s=0.06, capacity=math.inf, most=1024.0):
    return tabulate(
        model,
        LEVELS,
        context_tokens=300.0,
        threshold_s=threshold_s,
        kv_capacity_tokens=capacity,
        max_requests=most,
    )


def plan(made, demand, **options):
    return make_plan(made, **{"demand_per_s": demand, "slack": 0.0, "burst": 10.0, **options})


def asked(per_s):
    return IntendedDemand(pool_per_s=2.0 * per_s, share=0.5)


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


def test_a_barrier_is_as_high_as_ever_where_nothing_may_wait():
    made, demand = table(Tiled()), 4000.0
    alone, hardly, at_ease = (plan(made, demand, burst=60.0, held=h) for h in (0.0, 1e-9, 0.002))
    assert alone.slowest == hardly.slowest
    near = int(alone.viable_batch) - 30
    assert at_ease.lowest(near)[0] < alone.lowest(near)[0]


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


class Cubic:
    """Power with a floor, that grows with the batch and the cube of the clock."""

    def forecast_w(self, load, clocks_mhz):
        busy = load.decode_requests / (load.decode_requests + 64.0)
        return 100.0 + 500.0 * busy * (clocks_mhz / 1410.0) ** 3


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
    # What is to last asks for nothing here, so that what is left is the barrier.
    barrier = plan(made, demand, error=error, intended=asked(0.0)).slowest
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


def test_the_end_of_the_memory_keeps_room_for_what_could_not_wait():
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    demand = 0.99 * float(served_per_s(made)[10])
    tight, at_ease = (plan(made, demand, burst=10.0, affordable=a) for a in (0.0, 1.0))
    assert at_ease.settling == plan(made, demand, burst=0.0).settling <= 10
    assert tight.settling > at_ease.settling
    assert served_per_s(made, 110.0)[tight.settling] >= demand


@given(
    st.floats(1e-4, 0.3), st.floats(0.0, 30.0), st.floats(0.3, 0.99), st.sampled_from([0.0, 1e-3])
)
def test_the_end_of_the_memory_keeps_room_for_chance_and_for_a_burst(
    late, burst, share, affordable
):
    made = table(Tiled(), capacity=36_000.0)  # 120 requests
    most = float(made.rate_per_s[-1, -1])
    demand = share * most
    chance = most_on_average(120.0, demand, most, late=late, affordable=affordable)
    mean = min(chance, 120.0 - burst + affordable * most)
    enough = served_per_s(made, mean) >= demand
    decided = plan(made, demand, burst=burst, affordable=affordable, late=late)
    assert decided.settling == (int(enough.argmax()) if enough.any() else len(LEVELS) - 1)


@given(st.integers(1, 120), st.integers(0, len(LEVELS) - 1))
def test_a_batch_within_a_tile_serves_its_share_of_it(most, level):
    made = table(Tiled(), capacity=36_000.0)
    row = made.row(most)
    best = served_per_s(made, most)[level]
    assert best >= most / made.mean_s[row, level] * (1 - 1e-12)
    assert best <= served_per_s(made, made.batches[row])[level]


class Unknown:
    """A model that knows nothing yet."""

    def forecast(self, load, clocks_mhz):
        unknown = np.full(len(clocks_mhz), math.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)


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
