"""The lower bound lies below every policy: named ones, random ones, and schedules of hindsight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.hindsight.schedule import ROUTING, STEPS, Base, Schedule, under
from tests.bound_scenarios import scenario
from voltana.controllers.fixed import FixedClock
from voltana.evaluation.bound import lower_bound
from voltana.evaluation.bound.compare import covers
from voltana.evaluation.compare import compare
from voltana.evaluation.metrics import measure
from voltana.evaluation.scenario import ARRIVALS
from voltana.plant.simulation import Simulation
from voltana.policies.default import LEVELS
from voltana.policies.named import POLICIES
from voltana.policy import InstancePolicy, Policy
from voltana.slo import Attainment

CLUSTERS = (
    {"cluster": {}, "workload": {"name": "sharegpt", "rate_rps": 40.0}},
    {"cluster": {}, "workload": {"name": "lmsys", "rate_rps": 60.0}},
    {
        "cluster": {"hardware": "h100-sxm", "model": "ministral-3b", "prefill": 1, "decode": 3},
        "workload": {"name": "sharegpt", "rate_rps": 60.0, "arrival": "gamma", "cv": 3.0},
    },
    {
        "cluster": {"model": "qwen3-32b", "prefill": 2, "decode": 1},
        "slo": {"ttft_ms": 2000, "itl_ms": 100},
        "workload": {"name": "sharegpt", "rate_rps": 5.0},
    },
)


TOGETHER = (
    {"cluster": {"colocated": 2}, "workload": {"name": "sharegpt", "rate_rps": 15.0}},
    {
        "cluster": {"prefill": 1, "decode": 1, "colocated": 1},
        "workload": {"name": "sharegpt", "rate_rps": 20.0},
    },
    {
        "cluster": {"colocated": 2},
        "engine": {"mixed_chunk": True},
        "workload": {"name": "lmsys", "rate_rps": 20.0},
    },
)
CLUSTERS = (*CLUSTERS, *TOGETHER)


@pytest.mark.parametrize("index", range(len(CLUSTERS)))
def test_no_named_policy_beats_the_bound(index: int) -> None:
    tables = {**CLUSTERS[index], "seed": 5, ARRIVALS: {"duration_s": 8.0}}
    together = CLUSTERS[index]["cluster"].get("colocated", 0)
    names = [name for name in POLICIES if not (together and name.startswith("voltana-v0.1"))]
    made = compare(scenario(*names, **tables))
    _assert_above(made.scenario, [run.result for run in made.runs], made.reference.record.end_s)


def _assert_above(made, results, end_s: float) -> None:
    """The bound for what all of them attained lies below what each used, in all and by role."""
    attained = Attainment(
        ttft=min(result.ttft_attainment for result in results),
        itl=min(result.itl_attainment for result in results),
        itl_tokens=min(result.itl_token_attainment for result in results),
    )
    bound = lower_bound(made.cluster, made.plant, made.trace, attained, end_s)
    together, mixed = made.cluster.colocated, made.cluster.engine.mixed_chunk
    assert (bound.decode_j > 0) + (bound.prefill_j > 0) == (1 if together and mixed else 2)
    share = made.cluster.prefill / bound.instances
    for result in results:
        assert covers(bound, result)
        assert bound.energy_j - bound.slack_j <= result.energy_j
        if together:
            continue
        assert bound.prefill_j + share * bound.idle_j - bound.slack_j <= result.prefill_energy_j
        least_j = bound.decode_j + (1 - share) * bound.idle_j - bound.slack_j
        assert least_j <= result.decode_energy_j


class Weighted:
    """Routes at random, with a weight for each instance."""

    def __init__(self, seed: int, weights: tuple[float, ...]) -> None:
        self._rng = np.random.default_rng(seed)
        self._weights = weights

    def route(self, request, candidates) -> str:
        weights = np.resize(self._weights, len(candidates))
        chosen = self._rng.choice(len(candidates), p=weights / weights.sum())
        return candidates[int(chosen)].instance


def random_policy(clocks: tuple[int, ...], weights: tuple[float, ...]) -> Policy:
    """Fixed clocks by instance, and routers with fixed weights."""

    def control(context) -> InstancePolicy:
        place = 2 * (context.role.value == "decode") + int(context.instance.rpartition("-")[2])
        clock_mhz = context.table_mhz[clocks[place % len(clocks)] % len(context.table_mhz)]
        return InstancePolicy(controller=FixedClock(clock_mhz), levels_mhz=(clock_mhz,))

    def router(seed: int) -> Weighted:
        return Weighted(seed, weights)

    return Policy(
        name="random", summary="random", control=control, prefill_router=router,
        decode_router=router,
    )  # fmt: skip


POLICIES_AT_RANDOM = st.builds(
    random_policy,
    st.tuples(*[st.integers(0, 120)] * 4),
    st.tuples(*[st.sampled_from((0.0, 0.2, 1.0))] * 3).map(
        lambda w: w if sum(w[:1]) else (1.0, *w[1:])
    ),
)


def schedules(base: Base, low: int, high: int):
    """Policies under schedules of hindsight, the clocks of decode between two ends."""
    clocks = st.tuples(st.integers(low, high))
    steps = st.tuples(st.integers(-STEPS, STEPS))
    routes = st.integers(0, len(ROUTING) - 1)
    return st.builds(Schedule, st.just(base), clocks, steps, routes).map(under)


HINDSIGHT = schedules(Base.OWN, -STEPS, STEPS) | schedules(Base.LOWEST, 0, LEVELS - 1)

SCENARIOS = st.fixed_dictionaries(
    {
        "cluster": st.sampled_from(CLUSTERS),
        "load": st.sampled_from((0.2, 0.6, 1.0)),
        "noise": st.sampled_from((0.0, 0.03, 0.1)),
        "transfer": st.booleans(),
        "seed": st.integers(0, 1000),
    }
)


def check_random_run(run, policy: Policy) -> None:
    tables = run["cluster"]
    workload = {**tables["workload"], "rate_rps": run["load"] * tables["workload"]["rate_rps"]}
    made = scenario(
        **{
            **tables,
            "workload": workload,
            "seed": run["seed"],
            "engine": {
                **tables.get("engine", {}),
                "latency_noise": run["noise"],
                "transfer": run["transfer"],
            },
            ARRIVALS: {"duration_s": 5.0, "max_output_tokens": 200},
        }
    )
    simulation = Simulation(made.cluster, policy, made.trace, seed=run["seed"], plant=made.plant)
    simulation.run()
    record = simulation.record()
    result = measure(
        "random", record, made.cluster.slo, reference_energy_j=record.energy_j(), wall_s=0.0
    )
    assume(result.retractions == 0)
    _assert_above(made, [result], record.end_s)


@settings(max_examples=4)
@given(SCENARIOS, POLICIES_AT_RANDOM)
def test_no_random_policy_beats_the_bound(run, policy: Policy) -> None:
    check_random_run(run, policy)


@settings(max_examples=3)
@given(SCENARIOS, HINDSIGHT)
def test_no_schedule_of_hindsight_beats_the_bound(run, policy: Policy) -> None:
    check_random_run(run, policy)


@pytest.mark.slow
@settings(max_examples=20)
@given(SCENARIOS, POLICIES_AT_RANDOM | HINDSIGHT)
def test_no_policy_beats_the_bound_however_many_try(run, policy: Policy) -> None:
    check_random_run(run, policy)
