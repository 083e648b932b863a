"""The lower bound is tight where the optimum is known, and says what it relaxes."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bound_scenarios import EVERYTHING, SLO, default_plant, scenario
from voltana.errors import ConfigError
from voltana.evaluation.bound import bound_comparison, lower_bound
from voltana.evaluation.bound.bound_report import text
from voltana.evaluation.bound.decode import decode_bound
from voltana.evaluation.bound.decode_demand import decode_demand
from voltana.evaluation.bound.hull import PowerCurve, lower_hull
from voltana.evaluation.bound.iteration_cost import decode_steps, idle_floor_w, prefill_steps
from voltana.evaluation.bound.operating_points import OperatingPoints, operating_points
from voltana.evaluation.bound.prefill import PrefillWork, prefill_bound_j
from voltana.evaluation.bound.taut_string import optimal_speeds
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS
from voltana.plant.workload.trace import Trace
from voltana.values import Load


def yds(release, deadline, work) -> float:
    """Energy of the optimal schedule for power = speed^2, by critical intervals (Yao et al.)."""
    jobs, energy = list(zip(release, deadline, work, strict=True)), 0.0
    while jobs:
        density, a, b = max(
            (sum(w for r, d, w in jobs if a <= r and d <= b) / (b - a), a, b)
            for a in {r for r, _, _ in jobs}
            for b in {d for _, d, _ in jobs}
            if b > a
        )
        energy += density**2 * (b - a)
        jobs = [
            (_squeezed(r, a, b), _squeezed(d, a, b), w)
            for r, d, w in jobs
            if not (a <= r and d <= b)
        ]
    return energy


def _squeezed(t: float, a: float, b: float) -> float:
    return t if t <= a else max(a, t - (b - a))


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7
    )
)
def test_the_taut_string_is_the_optimal_schedule(rows) -> None:
    release = np.sort([float(r) for r, _, _ in rows])
    deadline = np.maximum.accumulate(release + [float(d) for _, d, _ in rows])
    work = np.array([float(w) for _, _, w in rows])
    times, speeds = optimal_speeds(release, deadline, work)
    assert speeds @ np.diff(times) == pytest.approx(work.sum())
    assert speeds**2 @ np.diff(times) == pytest.approx(yds(release, deadline, work))


def curve(*points: tuple[float, float]) -> PrefillWork:
    speeds, powers_w = np.array(points).T
    return PrefillWork(PowerCurve.of(speeds, powers_w, 1), 0.0, 1.0, 1.0, 1)


def bound_of(jobs, work: PrefillWork, may_miss: int = 0) -> float:
    """Prefill bound of (arrival, tokens) with a threshold of 1 s and no transfer."""
    arrival_s, tokens = np.array(jobs, dtype=float).T
    none = np.zeros(len(jobs))
    made = prefill_bound_j(arrival_s, tokens.astype(int), none, work, ttft_s=1.0, may_miss=may_miss)
    return made.energy_j


def test_one_job_runs_at_the_speed_that_its_deadline_asks_for() -> None:
    work = curve((100.0, 10.0), (200.0, 40.0))
    assert bound_of([(0.0, 150)], work) == pytest.approx(25.0)
    assert bound_of([(0.0, 50)], work) == pytest.approx(5.0), "races to idle below the critical"


def test_a_power_that_does_not_depend_on_speed_races() -> None:
    assert bound_of([(0.0, 100), (0.5, 50)], curve((100.0, 30.0), (300.0, 30.0))) == pytest.approx(
        15.0
    )


def test_the_dearest_request_may_miss() -> None:
    work = curve((100.0, 10.0), (200.0, 40.0))
    jobs = [(0.0, 200), (10.0, 100)]
    assert bound_of(jobs, work) == pytest.approx(50.0)
    assert bound_of(jobs, work, may_miss=1) == pytest.approx(30.0), "20 J at the critical speed"


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 60)), min_size=1, max_size=6),
    st.integers(0, 2),
)
def test_dropping_the_best_requests_never_beats_the_bound(jobs, may_miss: int) -> None:
    work = curve((60.0, 6.0), (120.0, 24.0), (400.0, 300.0))
    jobs = sorted(jobs)
    base = 0.1
    best = min(
        bound_of([job for i, job in enumerate(jobs) if i not in dropped] or [(0.0, 1)], work)
        + base * sum(jobs[i][1] for i in dropped)
        for dropped in _subsets(len(jobs), may_miss)
    )
    assert bound_of(jobs, work, may_miss) <= best + 1e-9


def _subsets(count: int, size: int):
    from itertools import combinations

    return [set(c) for k in range(min(size, count - 1) + 1) for c in combinations(range(count), k)]


def test_the_lower_hull_lies_below_all_points() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random(200), rng.random(200)
    hull = lower_hull(x, y)
    assert np.all(np.interp(x, x[hull], y[hull]) <= y + 1e-12)


def points(*rows: tuple[float, float, float]) -> OperatingPoints:
    """Points of (requests, seconds, joules) without a cache and never late."""
    requests, seconds, joules = np.array(rows).T
    none = np.zeros(len(rows))
    return OperatingPoints(
        requests=requests, kv_tokens=none, seconds=seconds, joules=joules, late_tokens=none
    )


def demand(tokens: list[float], end_s: float, bins: int = 4, fastest_s: float = 1e-3):
    count = len(tokens)
    return decode_demand(
        ready_s=np.zeros(count),
        latest_s=np.full(count, 0.6),
        tokens=np.array(tokens),
        prompt_tokens=np.zeros(count),
        fastest_s=fastest_s,
        slo=SLO,
        may_miss=0,
        edges_s=np.linspace(0.0, end_s, bins + 1),
    )


def test_decode_at_one_point_costs_its_tokens() -> None:
    made = decode_bound(
        dataclasses.replace(points((1, 0.01, 0.2)), kv_tokens=np.array([1e9])),
        demand([50.0], 4.0),
        machines=1,
        may_be_late=0.0,
    )
    assert made.energy_j == pytest.approx(10.0, rel=1e-3)


def test_decode_mixes_speeds_to_fill_the_time() -> None:
    """60 tokens in 2 s: 20 ms and 1 J, or 50 ms and 0.5 J: 20 of the slow ones fit."""
    fast, slow = (1, 0.02, 1.0), (1, 0.05, 0.5)
    made = decode_bound(
        dataclasses.replace(points(fast, slow), kv_tokens=np.full(2, 1e9)),
        demand([30.0, 30.0], 2.0, bins=1),
        machines=1,
        may_be_late=0.0,
    )
    slow_runs = (2.0 - 60 * 0.02) / 0.03
    assert made.energy_j == pytest.approx(60.0 - 0.5 * slow_runs, rel=1e-3)


def test_vectorised_costs_are_those_of_the_plant() -> None:
    plant = default_plant()
    floor_w = idle_floor_w(plant)
    seconds, joules = decode_steps(plant, np.array([33.0]), np.array([[9000.0, 20000.0]]))
    load = Load(decode_requests=33, decode_kv_tokens=20000)
    for i, clock_mhz in enumerate(plant.hardware.clocks_mhz[:60:20]):
        latency_s, power_w, _ = plant.iterate(load, clock_mhz)
        assert seconds[20 * i, 0, 1] == pytest.approx(latency_s)
        assert joules[20 * i, 0, 1] == pytest.approx((power_w - floor_w) * latency_s)
    made_s, made_j = prefill_steps(plant, np.array([500.0]), np.array([9e4]), 705.0)
    load = Load(prefill_tokens=500, prefill_attended_pairs=9e4)
    latency_s, power_w, _ = plant.iterate(load, 705.0)
    assert made_s[0] == pytest.approx(latency_s)
    assert made_j[0] == pytest.approx((power_w - floor_w) * latency_s)


@settings(max_examples=25)
@given(
    iteration=st.tuples(st.integers(1, 400), st.floats(1, 1100), st.integers(0, 80)),
    prices=st.tuples(st.floats(0, 400), st.floats(0, 1e-4), st.floats(0, 0.1)),
)
def test_no_iteration_is_cheaper_than_a_mixture_of_operating_points(iteration, prices) -> None:
    """At any prices of time, cache reads and lateness the points offer requests for less."""
    (requests, context, clock), (price_w, kv_price_j, late_price_j) = iteration, prices
    plant, made = default_plant(), default_points()
    clock_mhz = plant.hardware.clocks_mhz[clock]
    load = Load(decode_requests=requests, decode_kv_tokens=int(requests * context))
    latency_s, power_w, _ = plant.iterate(load, clock_mhz)
    late = float(latency_s > SLO.itl_s)
    cost_j = latency_s * (power_w - idle_floor_w(plant) + price_w)
    cost_j += late_price_j * requests * late - kv_price_j * load.decode_kv_tokens
    offers_j = made.joules + price_w * made.seconds + late_price_j * made.late_tokens
    offers_j = offers_j - kv_price_j * made.kv_tokens
    enough = made.requests >= requests
    assert offers_j[enough].min() <= cost_j + 1e-6


@cache
def default_points() -> OperatingPoints:
    made = scenario(engine={"latency_noise": 0.0}, **{ARRIVALS: {"duration_s": 1.0}})
    return operating_points(made.plant, made.cluster, mean_context=450.0, most_requests=400)


def test_a_full_prefill_batch_reaches_the_bound() -> None:
    """One prompt of the largest batch, no hurry: the best fixed clock is the optimum."""
    made = scenario(engine={"latency_noise": 0.0}, slo={"ttft_ms": 60000})
    trace = Trace(
        arrival_s=np.zeros(1), prompt_tokens=np.array([8192]), output_tokens=np.array([1])
    )
    bound = lower_bound(made.cluster, made.plant, trace, EVERYTHING, 10.0)
    load = Load(prefill_tokens=8192, prefill_attended_pairs=8192 * 8193 / 2)
    floor_w = idle_floor_w(made.plant)
    costs = [made.plant.iterate(load, mhz) for mhz in made.plant.hardware.clocks_mhz]
    best_j = min(cost.latency_s * (cost.power_w - floor_w) for cost in costs)
    assert bound.prefill_j <= best_j
    assert bound.prefill_j == pytest.approx(best_j, rel=0.01)
    assert bound.idle_j == pytest.approx(4 * floor_w * 10.0)
    assert bound.slack_j == 0.0


def test_a_horizon_before_the_last_arrival_is_refused() -> None:
    made = scenario(**{ARRIVALS: {"duration_s": 5.0}})
    with pytest.raises(ConfigError, match=r"end_s = 1\.0 is not allowed"):
        lower_bound(made.cluster, made.plant, made.trace, EVERYTHING, 1.0)


def test_the_report_says_what_is_saved_and_what_is_relaxed() -> None:
    made = compare(scenario("static-low", **{ARRIVALS: {"rate_rps": 30.0, "duration_s": 6.0}}))
    report = bound_comparison(made)
    assert report.bound is not None
    (gap,) = report.policies
    assert gap.covered
    assert 0 < gap.share_of_saving < 1
    assert report.saving > gap.result.energy_saved_vs_static_max
    lost_j = gap.result.energy_j - report.bound.energy_j
    assert gap.prefill_gap_j + gap.decode_gap_j == pytest.approx(lost_j)
    shown = text(report, made)
    board = made.scenario.cluster.hardware
    assert shown.endswith(board.knowledge.caveat(board.name))
    assert "| static-low |" in shown
    assert "the whole trace is known in advance" in shown
    read = json.loads(report.to_json())
    assert read["bound"]["energy_j"] == report.bound.energy_j
    assert read["applies"] is True


def test_colocated_instances_are_bounded_and_what_is_relaxed_there_is_said() -> None:
    tables = {"cluster": {"colocated": 2}, ARRIVALS: {"rate_rps": 6.0, "duration_s": 6.0}}
    made = compare(scenario("static-low", **tables))
    report = bound_comparison(made)
    assert report.bound is not None
    assert report.bound.instances == 2
    assert math.isnan(report.policies[0].prefill_gap_j)  # nobody can tell the phases apart
    assert "computes prompts and decodes at the same time" in text(report, made)
    mixed = bound_comparison(
        compare(scenario("static-low", **tables, engine={"mixed_chunk": True}))
    )
    assert mixed.bound is not None
    assert mixed.bound.energy_j < report.bound.energy_j
    assert "comes for nothing in the batches of the other" in mixed.to_json()


def test_an_overloaded_cluster_has_no_bound_and_is_told_why() -> None:
    made = compare(scenario("static-max", **{ARRIVALS: {"rate_rps": 160.0, "duration_s": 5.0}}))
    report = bound_comparison(made)
    assert report.bound is None
    assert "does not apply: at the fastest clock the cluster attains TTFT" in report.reason
    assert text(report, made) == report.reason
    assert json.loads(report.to_json())["saving"] is None
