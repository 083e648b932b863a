"""The decode pool as an MDP: exact on tiny pools, a contraction, monotone; and the router on it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.policies.routing import LookingAhead
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.routers.mdp import MDPRouter, at_once
from voltana.routers.mdp.arrivals import ArrivalMeter
from voltana.routers.mdp.chain import Arrivals, Costs, Grid, decode_chain, make_grid
from voltana.routers.mdp.pool import InstanceChain, PoolMdp, pool_states
from voltana.testing import samples
from voltana.values import Candidate, Forecast, InstanceState, Need, Request, Role

LEVELS = (600.0, 810.0, 1005.0, 1200.0, 1410.0)


def birth_death(cost, departure, refusal=50.0):
    """An instance that holds 0 to m - 1 requests."""
    m = len(cost)
    up = np.minimum(np.arange(m) + 1, m - 1)
    return InstanceChain(
        cost=np.array(cost, dtype=float),
        moves=np.maximum(np.arange(m) - 1, 0)[:, None],
        rates=np.array([0.0, *departure], dtype=float)[:, None],
        joins=up[:, None],
        join_shares=np.ones((m, 1)),
        refusals=np.where(np.arange(m) == m - 1, refusal, 0.0),
    )


def exact(pool, choices):
    """Values of a fixed choice, from the linear equations, put together state by state."""
    count = len(pool.states)
    matrix, right = np.zeros((count, count)), pool._cost.copy()
    for s in range(count):
        matrix[s, s] = pool._scale - pool._rest[s]
        slot = choices[s]
        for event in range(pool._joined.shape[2]):
            share = pool._join_shares[s, slot, event]
            matrix[s, pool._joined[s, slot, event]] -= pool._arrivals * share
        right[s] += pool._arrivals * pool._refusals[s, slot]
        for i, event in itertools.product(range(pool.states.shape[1]), range(pool._moved.shape[2])):
            matrix[s, pool._moved[s, i, event]] -= pool._rates[s, i, event]
    return np.linalg.solve(matrix, right)


costs_and_rates = st.integers(2, 5).flatmap(
    lambda m: st.tuples(
        st.lists(st.floats(0, 100), min_size=m, max_size=m),
        st.lists(st.floats(0.05, 5), min_size=m - 1, max_size=m - 1),
    )
)


@pytest.mark.parametrize(
    ("cost", "departure", "rate"),
    [
        ((10.0, 60.0, 70.0), (1.0, 1.5), 1.0),  # waking costs: fill one
        ((10.0, 11.0, 90.0), (1.0, 1.5), 1.0),  # crowding costs: balance
        ((5.0, 40.0, 45.0), (0.3, 0.4), 2.0),
    ],
)
def test_value_iteration_is_the_best_of_all_policies(cost, departure, rate):
    pool = PoolMdp(birth_death(cost, departure), 2, arrivals_per_s=rate, discount_per_s=0.3)
    solution = pool.solve(tolerance=1e-9)
    every = [exact(pool, choices) for choices in itertools.product((0, 1), repeat=len(pool.states))]
    best = np.min(every, axis=0)
    assert solution.values == pytest.approx(best, abs=1e-4)
    assert exact(pool, solution.choices) == pytest.approx(best, abs=1e-4)
    assert solution.gap < 1e-3


def test_it_fills_one_where_waking_costs_and_balances_where_crowding_does():
    fill = PoolMdp(birth_death((10, 60, 70, 80), (1, 2, 3)), 2, arrivals_per_s=0.5)
    state = fill.index_of((0, 1))
    assert tuple(fill.states[state]) == (0, 1)
    assert fill.solve().choices[state] == 1
    even = PoolMdp(birth_death((10, 11, 90, 300), (1, 1, 1)), 2, arrivals_per_s=0.5)
    assert even.solve().choices[even.index_of((1, 0))] == 0


@settings(max_examples=150, deadline=None)
@given(costs_and_rates, st.integers(1, 3), st.floats(0, 5), st.integers(0, 2**31))
def test_the_operator_is_a_contraction(chain, count, rate, seed):
    pool = PoolMdp(birth_death(*chain), count, arrivals_per_s=rate)
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0, 100, (2, len(pool.states)))
    before = np.abs(one - other).max()
    after = np.abs(pool.bellman(one) - pool.bellman(other)).max()
    assert pool.modulus < 1
    assert after <= pool.modulus * before * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(costs_and_rates, st.integers(1, 3), st.floats(0, 5), st.floats(0, 20))
def test_values_rise_with_the_state_and_with_the_cost(chain, count, rate, more):
    cost, departure = np.sort(chain[0]), chain[1]
    pool = PoolMdp(birth_death(cost, departure), count, arrivals_per_s=rate, discount_per_s=0.2)
    values = pool.solve(tolerance=1e-9).values
    slack = 1e-5 * (1 + np.abs(values).max())
    for s, members in enumerate(pool.states):
        for slot in range(count):
            if members[slot] + 1 < len(cost):
                fuller = members.copy()
                fuller[slot] += 1
                assert values[pool.index_of(tuple(fuller))] >= values[s] - slack
    dearer = PoolMdp(
        birth_death(cost + more, departure), count, arrivals_per_s=rate, discount_per_s=0.2
    ).solve(tolerance=1e-9)
    assert dearer.values == pytest.approx(values + more * count / 0.2, abs=1e-3 * (1 + more))


def test_a_warm_start_takes_fewer_sweeps():
    pool = PoolMdp(birth_death((10, 60, 70, 80), (1, 2, 3)), 3, arrivals_per_s=1.0)
    cold = pool.solve()
    warm = pool.solve(cold.values)
    assert warm.sweeps < cold.sweeps
    assert warm.values == pytest.approx(cold.values, rel=1e-2)


@pytest.mark.parametrize("bad", [{"count": 0}, {"arrivals_per_s": -1}, {"discount_per_s": 0}])
def test_a_pool_refuses_what_is_out_of_range(bad):
    arguments = {"count": 2, "arrivals_per_s": 1.0, "discount_per_s": 0.1, **bad}
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PoolMdp(birth_death((1, 2), (1,)), arguments.pop("count"), **arguments)


def trained():
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in samples.outcomes(300):
        predictor.learn(outcome)
    return predictor


@pytest.fixture(scope="module")
def snapshot():
    return trained().snapshot()


def costs(snapshot, **changed):
    arguments = {"budget_s": 0.06, **changed}
    return Costs(latency=snapshot, power=LinearPower(), levels_mhz=np.array(LEVELS), **arguments)


TRAFFIC = Arrivals(rate_rps=20.0, prompt_tokens=200.0, output_tokens=250.0)


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_the_grid_keeps_the_table_small(snapshot, count):
    grid = make_grid(costs(snapshot), TRAFFIC, count, 4000)
    assert 1 < pool_states(grid.states, count) <= 4000
    assert grid.locate(0, 0) == 0
    assert grid.locate(10**6, 10**9) == grid.states - 1


def test_the_chain_conserves_requests_and_probability(snapshot):
    grid = Grid(batches=6, requests=16, memories=3, kv_tokens=15_000.0)
    chain = decode_chain(costs(snapshot), TRAFFIC, grid)
    assert chain.join_shares.sum(axis=1) == pytest.approx(1.0)
    assert (chain.join_shares >= 0).all()
    assert (chain.rates >= 0).all()
    assert chain.rates[0].sum() == 0
    for batch, memory in itertools.product(range(1, 7), range(4)):
        state = grid.index(batch, memory)
        requests = batch * grid.requests
        load = samples.Load.decode(requests, int(max(memory * grid.kv_tokens, requests)))
        latency_s = costs(snapshot).at(load)[1]
        ending = chain.rates[state, :2].sum() * grid.requests
        assert ending == pytest.approx(requests / 250.0 / latency_s)
    assert np.diff(chain.cost[[grid.index(b, 0) for b in range(1, 7)]]).min() > 0


def test_a_state_without_a_safe_clock_costs_the_penalty(snapshot):
    tight, loose = costs(snapshot, budget_s=1e-4), costs(snapshot, budget_s=10.0)
    load = samples.Load.decode(64, 30_000)
    assert tight.at(load)[0] >= 300.0 + loose.at(load)[0]
    full = costs(snapshot, budget_s=10.0, capacity_tokens=20_000.0)
    assert full.at(load)[0] >= 300.0
    easy = costs(snapshot, budget_s=10.0, capacity_tokens=80_000.0, reserved_tokens=100.0)
    assert easy.used(load) == pytest.approx(36_400 / 80_000)
    assert easy.at(load) == loose.at(load)


def candidate(name, requests, snapshot, **changed):
    return Candidate(
        instance=name,
        role=Role.DECODE,
        state=InstanceState(
            running_requests=requests, kv_tokens=300 * requests, clock_mhz=LEVELS[-1]
        ),
        predictor=snapshot,
        levels_mhz=LEVELS,
        budget_s=0.06,
        in_flight=requests,
        **changed,
    )


def request(index=0, at_s=0.0, **changed):
    return Request(request_id=index, arrived_at_s=at_s, prompt_tokens=200, **changed)


@pytest.mark.parametrize(("share", "expected"), [(0.9, "b"), (3.0, "a")])
def test_it_consolidates_only_where_the_slo_allows_it(snapshot, share, expected):
    load = samples.Load.decode(120, 36_000)
    fastest_s = float(snapshot.forecast(load, np.array(LEVELS)).upper_s[-1])
    router = MDPRouter(LinearPower(), run=at_once)
    pool = [candidate("a", 120, snapshot), candidate("b", 20, snapshot)]
    pool = [dataclasses.replace(c, budget_s=share * fastest_s) for c in pool]
    for i in range(400):
        chosen = router.route(request(i, i * 0.05), pool)
    assert router.ready
    assert chosen == expected


def test_it_plans_on_what_candidates_say_where_it_was_given_nothing(snapshot):
    """As in a router beside engines, whose instances are built elsewhere."""
    made = LookingAhead().router(0)
    assert isinstance(made, MDPRouter)
    assert {Need.POWER, Need.KV_CAPACITY, Need.LATENCY} <= made.needs
    assert Need.POWER not in MDPRouter(LinearPower()).needs
    power = LinearPower()
    pools = [
        [
            dataclasses.replace(
                c,
                power=power.snapshot() if given else None,
                kv_capacity_tokens=200_000.0,
                kv_reserved_tokens=512.0,
            )
            for c in (candidate("a", 60, snapshot), candidate("b", 20, snapshot))
        ]
        for given in (False, True)
    ]
    without, told, saying = (
        MDPRouter(run=at_once),
        MDPRouter(power, kv_capacity_tokens=200_000.0, kv_reserved_tokens=512.0, run=at_once),
        MDPRouter(run=at_once),
    )
    for i in range(200):
        without.route(request(i, i * 0.05), pools[0])
        assert told.route(request(i, i * 0.05), pools[0]) == saying.route(
            request(i, i * 0.05), pools[1]
        )
    assert told.ready
    assert saying.ready
    assert not without.ready


def test_the_table_is_computed_by_whoever_is_told_to(snapshot):
    jobs = []
    router = MDPRouter(LinearPower(), run=jobs.append)
    pool = [candidate("a", 3, snapshot), candidate("b", 5, snapshot)]
    assert router.route(request(), pool) == "a"  # the fewest, until there is a table
    assert len(jobs) == 1
    router.route(request(1, 60.0), pool)
    assert len(jobs) == 1  # one at a time
    jobs.pop()()
    assert router.ready
    router.route(request(2, 61.0), pool)
    assert len(jobs) == 1  # due again
    jobs.pop()()
    router.route(request(3, 61.1), pool)
    assert jobs == []


def test_nothing_is_solved_again_while_nothing_changes(snapshot):
    router = MDPRouter(LinearPower(), run=at_once)
    pool = [candidate("a", 0, snapshot), candidate("b", 0, snapshot)]
    for i in range(3000):
        router.route(request(i, i * 0.05, expected_output_tokens=256.0), pool)
    table = router._table
    for i in range(3000, 3200):
        router.route(request(i, i * 0.05, expected_output_tokens=256.0), pool)
    assert router._table is table


def test_batches_beyond_the_table_are_balanced(snapshot):
    router = MDPRouter(LinearPower(), run=at_once)
    pool = [candidate("a", 3, snapshot), candidate("b", 0, snapshot)]
    router.route(request(), pool)
    most = router._table.grid.batches * router._table.grid.requests
    flooded = [candidate("a", 2 * most + 50, snapshot), candidate("b", most + 50, snapshot)]
    assert router.route(request(1, 0.01), flooded) == "b"


class Unbounded:
    """A predictor that knows nothing, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def forecast(self, load, clocks_mhz):
        self.asked += 1
        unknown = np.full(len(clocks_mhz), np.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)

    def to_dict(self):
        return {}


def test_what_cannot_be_solved_is_not_tried_at_every_request():
    unbounded = Unbounded()
    router = MDPRouter(LinearPower(), run=at_once)
    pool = [candidate("a", 4, unbounded), candidate("b", 2, unbounded)]
    assert router.route(request(), pool) == "b"
    asked = unbounded.asked
    for i in range(50):
        assert router.route(request(i, 1e-3 * i), pool) == "b"
    assert unbounded.asked == asked
    assert not router.ready


def test_unlike_instances_and_other_pools_fall_back(snapshot):
    router = MDPRouter(LinearPower(), run=at_once)
    odd = dataclasses.replace(candidate("b", 1, snapshot), budget_s=0.5)
    assert router.route(request(), [candidate("a", 3, snapshot), odd]) == "b"
    assert not router.ready
    three = [candidate(name, n, snapshot) for name, n in (("a", 3), ("b", 2), ("c", 1))]
    assert router.route(request(), three) in {"a", "b", "c"}
    assert router.route(request(1), three[:2]) in {"a", "b"}


def test_the_meter_finds_rate_and_lengths():
    meter, rng, now_s = ArrivalMeter(256.0), np.random.default_rng(1), 0.0
    for i in range(6000):
        now_s += float(rng.exponential(1 / 40.0))
        meter.note(request(i, now_s))
    for _ in range(40):
        found = meter.arrivals(40.0 * 180.0)
    assert found.rate_rps == pytest.approx(40.0, rel=0.15)
    assert found.prompt_tokens == pytest.approx(200.0)
    assert found.output_tokens == pytest.approx(180.0, rel=0.15)


def test_what_requests_say_of_themselves_counts():
    meter = ArrivalMeter(256.0)
    for i in range(500):
        meter.note(request(i, i * 0.1, expected_output_tokens=90.0))
    assert meter.arrivals(0.0).output_tokens == pytest.approx(90.0, rel=0.05)


@pytest.mark.parametrize("field", ["penalty_w", "discount_s", "max_states", "check_s"])
def test_the_router_refuses_what_is_out_of_range(field):
    with pytest.raises(ConfigError, match=field):
        MDPRouter(LinearPower(), **{field: -1})


def test_the_policy_serves_and_is_the_same_twice():
    flags = {"policies": ["voltana-mdp"], ARRIVALS: {"rate_rps": 30.0, "duration_s": 15.0}}
    first, second = (compare(load_scenario(None, flags)).runs[0].result for _ in range(2))
    assert first.energy_j == second.energy_j
    assert first.requests_completed == first.requests_offered
    assert first.itl_attainment > 0.99
