"""The power budget: reservations never exceed it, floors are kept, and watts go where they help."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.controllers.budgeted import Budgeted
from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.fixed import FixedClock
from voltana.controllers.lateness import Lateness
from voltana.controllers.power_budget import PowerBudget
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.plant.simulation import Simulation
from voltana.policies.named import get_policy
from voltana.policies.power_budget import with_power_budget
from voltana.predictors.ecopred import EcoPred
from voltana.slo import Slo
from voltana.testing import samples
from voltana.values import Bounds, DeadlineBucket, Load, Observation, Queue, Status

LEVELS = (600.0, 810.0, 1005.0, 1200.0, 1410.0)
LOADS = (Load(), Load.decode(8, 4000), Load.decode(200, 160_000), Load.prefill([(4000, 0)]))
BUSIEST = Load.decode(1 << 12, 1 << 20)


class CubicPower:
    """Idle power and a cubic part that grows with the load; `scale` is its error."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def forecast_w(self, load, clocks_mhz):
        full = (load.decode_requests + load.prefill_tokens / 16) / 300
        return self.scale * (50 + 40 * min(full, 1) + 250 * min(full, 1) * (clocks_mhz / 1410) ** 3)

    def learn_window(self, energy_j, exposures):
        pass


def observe(instance, load, now_s, *, clock_mhz=1410.0, wait_s=0.0, bounds=None):
    return Observation(
        instance=instance,
        sampled_at_s=now_s,
        now_s=now_s,
        load=load,
        queue=Queue(oldest_wait_s=wait_s),
        clock_mhz=clock_mhz,
        target_mhz=clock_mhz,
        bounds=bounds or Bounds(),
    )


def cluster(budget_w, count=4, *, error=0.05, controller=None):
    budget = PowerBudget(budget_w)
    members = [
        Budgeted(
            controller or FixedClock(1410.0),
            CubicPower(),
            LEVELS,
            budget,
            instance=f"d{i}",
            busiest=BUSIEST,
            error=error,
        )
        for i in range(count)
    ]
    return budget, members


FLOOR_W = 1.05 * float(CubicPower().forecast_w(BUSIEST, np.array(LEVELS[:1]))[0])

steps = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(LOADS),
        st.floats(0.0, 0.2),
        st.sampled_from(LEVELS),
        st.sampled_from((*LEVELS, math.nan, 5000.0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.floats(1.0, 4.0), st.floats(0.0, 0.2))
def test_real_power_within_the_stated_error_never_exceeds_the_budget(moves, factor, error):
    floor_w = FLOOR_W / 1.05 * (1 + error)
    budget_w = 4 * floor_w * factor + 1e-6
    budget, members = cluster(budget_w, error=error)
    real, now_s = CubicPower(1 + error), 0.0
    settled = {i: (Load(), LEVELS[0]) for i in range(4)}
    for index, load, gap_s, wish_mhz, achieved_mhz in moves:
        now_s += gap_s
        members[index].controller = FixedClock(wish_mhz)
        decision = members[index].decide(observe(f"d{index}", load, now_s, clock_mhz=achieved_mhz))
        assert decision.clock_mhz in LEVELS
        assert decision.clock_mhz <= wish_mhz
        settled[index] = (load, decision.clock_mhz)
        drawn_w = sum(real.forecast_w(x, np.array([mhz]))[0] for x, mhz in settled.values())
        assert drawn_w <= budget_w + 1e-6
        assert sum(budget.reserved_w.values()) <= budget_w + 1e-6
    assert budget.exceeded == budget.saturated == 0


def test_enough_for_all_grants_every_wish():
    _, members = cluster(4000.0)
    for index, member in enumerate(members):
        assert member.decide(observe(f"d{index}", LOADS[2], 1.0)).clock_mhz == 1410.0


def test_alike_instances_share_alike():
    _, members = cluster(800.0)
    clocks = {}
    for round_s in (1.0, 1.2, 1.4, 1.6):
        for index, member in enumerate(members):
            decision = member.decide(observe(f"d{index}", LOADS[2], round_s, clock_mhz=600.0))
            clocks[index] = decision.clock_mhz
    assert max(clocks.values()) <= 1200.0
    assert len(set(clocks.values())) <= 2


def test_a_budget_below_the_floors_is_refused():
    with pytest.raises(ConfigError, match=r"power_budget_w = 300 .* at least \d+ W for \d inst"):
        cluster(300.0)
    with pytest.raises(ConfigError, match="power_budget_w = 0"):
        PowerBudget(0.0)


def test_a_floor_that_grows_beyond_the_budget_is_counted():
    budget, members = cluster(4 * FLOOR_W + 1)
    for member in members:
        member._power.scale = 1.5
    for index, member in enumerate(members):
        decision = member.decide(observe(f"d{index}", LOADS[2], 1.0))
        assert decision.clock_mhz == LEVELS[0]
    assert budget.exceeded >= budget.saturated > 0
    assert sum(budget.reserved_w.values()) > budget.budget_w


def test_an_operators_lower_limit_wins_and_is_reserved():
    budget, members = cluster(4 * FLOOR_W + 1)
    bounds = Bounds(min_mhz=1200.0, min_source="operator")
    members[0].decide(observe("d0", LOADS[2], 1.0, bounds=bounds))
    assert budget.reserved_w["d0"] >= 1.05 * CubicPower().forecast_w(LOADS[2], np.array([1200.0]))
    assert budget.exceeded == 1
    assert budget.saturated == 0


def test_the_idle_count_idle_power_and_what_they_need_to_wake_stays_free():
    budget, members = cluster(4 * FLOOR_W + 150)
    for index in range(3):
        members[index].decide(observe(f"d{index}", Load(), 1.0, clock_mhz=600.0))
        idle_w = 1.05 * float(CubicPower().forecast_w(Load(), np.array([1410.0]))[0])
        assert budget.reserved_w[f"d{index}"] == pytest.approx(idle_w)
    members[3].decide(observe("d3", LOADS[2], 1.1, clock_mhz=600.0))
    for index in range(3):
        members[index].decide(observe(f"d{index}", LOADS[2], 1.11, clock_mhz=600.0))
        assert budget.reserved_w[f"d{index}"] >= FLOOR_W
        assert sum(budget.reserved_w.values()) <= budget.budget_w
    assert budget.exceeded == 0


def test_what_is_learned_to_be_dearer_is_given_back_by_the_next_round():
    budget, members = cluster(4 * FLOOR_W + 300)
    for round_s in (1.0, 1.2, 1.4):
        for index, member in enumerate(members):
            member.decide(observe(f"d{index}", LOADS[2], round_s, clock_mhz=600.0))
    members[0]._power.scale = 1.3
    clocks = [
        member.decide(observe(f"d{index}", LOADS[2], round_s, clock_mhz=600.0)).clock_mhz
        for round_s in (1.6, 1.8)
        for index, member in enumerate(members)
    ]
    assert sum(budget.reserved_w.values()) <= budget.budget_w + 1e-6
    assert min(clocks) >= LEVELS[0]
    assert budget.saturated == 0


def test_what_was_promised_is_given_up_with_the_clock():
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in samples.outcomes(80):
        predictor.learn(outcome)
    slo = Slo(ttft_s=0.6, itl_s=1e-3)
    _, members = cluster(4 * FLOOR_W + 1, controller=EcoFreq(predictor, LEVELS, slo))
    decision = members[0].decide(observe("d0", LOADS[2], 1.0))
    assert decision.clock_mhz < 1410.0
    assert decision.reason == "power budget"
    assert decision.status is not Status.CERTIFIED


def scenario(**more):
    flags = {
        "policies": ["static-max", "voltana"],
        "workload": {"name": "sharegpt"},
        ARRIVALS: {"rate_rps": 50.0, "duration_s": 20.0},
    }
    return load_scenario(None, {**flags, **more})


@pytest.mark.parametrize("seed", [0, 5])
def test_the_plant_stays_within_the_budget_and_its_error(seed):
    comparison = compare(scenario(power_budget_w=800.0, seed=seed))
    for run in comparison.runs:
        assert run.record.power_w.max() <= 800.0 * 1.02
        assert run.result.peak_power_w <= 800.0
        assert run.result.requests_completed == run.result.requests_offered


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["a100-sxm4-80gb", "h100-sxm"])
@pytest.mark.parametrize(
    ("model", "count", "share"), [("qwen3-32b", 2, 0.5), ("ministral-3b", 4, 0.55)]
)
def test_other_clusters_stay_within_it_too(hardware, model, count, share):
    cluster = {"hardware": hardware, "model": model, "prefill": count, "decode": count}
    free = scenario(cluster=cluster)
    limit_w = free.cluster.hardware.tdp_w * free.cluster.tensor_parallel * 2 * count
    budget_w = share * limit_w
    for run in compare(scenario(cluster=cluster, power_budget_w=budget_w)).runs:
        assert run.record.power_w.max() <= 1.02 * budget_w


def test_a_policy_within_a_budget_can_run_again():
    s = scenario()
    policy = with_power_budget(get_policy("static-max"), 800.0)
    first, again = (Simulation(s.cluster, policy, s.trace, plant=s.plant) for _ in range(2))
    for simulation in (first, again):
        simulation.run(until_s=3.0)
    assert first.record().energy_j() == again.record().energy_j()


def test_attainment_degrades_step_by_step():
    kept = []
    # 20 s, a quarter of which is the start, in which the power model is not trusted yet.
    for budget_w in (1600.0, 950.0, 600.0):
        result = compare(scenario(power_budget_w=budget_w, policies=["voltana"])).runs[0].result
        kept.append((result.ttft_attainment, result.mean_power_w))
    attainments, powers = zip(*kept, strict=True)
    assert attainments[0] > 0.99
    assert attainments[0] >= attainments[1] >= attainments[2]
    assert attainments[1] > 0.95
    assert powers[0] > powers[2]


def test_a_budget_that_is_wide_enough_changes_only_what_may_be_chosen():
    free, wide = (
        Simulation(s.cluster, policy, s.trace, plant=s.plant)
        for s in [scenario()]
        for policy in (
            get_policy("static-max"),
            with_power_budget(get_policy("static-max"), 10_000.0),
        )
    )
    free.run()
    wide.run()
    assert wide.record().energy_j() == pytest.approx(free.record().energy_j())


def test_levels_must_ascend_and_errors_must_not_be_negative():
    arguments = {"instance": "d0", "busiest": BUSIEST}
    with pytest.raises(ConfigError, match="levels_mhz"):
        Budgeted(FixedClock(1.0), CubicPower(), (), PowerBudget(900.0), **arguments)
    with pytest.raises(ConfigError, match="error = -1"):
        Budgeted(FixedClock(1.0), CubicPower(), LEVELS, PowerBudget(900.0), error=-1, **arguments)


def test_a_claim_without_a_forecast_counts_as_just_enough():
    decision = FixedClock(1410.0).decide(observe("d0", LOADS[2], 0.0))
    lateness = Lateness().at(observe("d0", LOADS[2], 0.0), decision, np.array(LEVELS))
    assert lateness[-1] == 1.0
    assert np.all(np.diff(lateness) < 0)


def learned():
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in samples.outcomes(80):
        predictor.learn(outcome)
    return predictor


def test_a_policy_that_forecasts_nothing_is_as_late_as_what_was_learned_says():
    slo, wanted = Slo(ttft_s=0.6, itl_s=0.065), FixedClock(1410.0).decide(observe("d", Load(), 0))
    levels, model = np.array(LEVELS), learned()
    late = Lateness(slo, model)
    decode = late.at(observe("d0", LOADS[2], 0.0), wanted, levels)
    assert decode == pytest.approx(model.forecast(LOADS[2], levels).mean_s / 0.065)
    prefill = late.at(observe("p0", LOADS[3], 0.0, wait_s=0.4), wanted, levels)
    assert prefill == pytest.approx(model.forecast(LOADS[3], levels).mean_s / 0.2)


def test_it_learns_from_what_has_ended():
    slo, levels = Slo(ttft_s=0.6, itl_s=0.065), np.array(LEVELS)
    wanted = FixedClock(1410.0).decide(observe("d", Load(), 0))
    late = Lateness(slo, EcoPred(max_clock_mhz=1410.0))
    now = observe("d0", LOADS[2], 0.0)
    assert late.at(now, wanted, levels)[-1] == 1.0  # knows nothing, so that the wish is enough
    late.learn(dataclasses.replace(now, ended=tuple(samples.outcomes(80))))
    assert late.at(now, wanted, levels) == pytest.approx(
        learned().forecast(LOADS[2], levels).mean_s / 0.065
    )


def bucket(deadline_s, tokens):
    return DeadlineBucket(
        deadline_s=deadline_s,
        cumulative_tokens=tokens,
        cumulative_attended_pairs=0.0,
        cumulative_batches=1,
    )


def test_prefill_is_as_late_as_the_worst_of_what_waits_behind_it():
    slo, levels = Slo(ttft_s=0.6, itl_s=0.065), np.array(LEVELS)
    wanted, late = FixedClock(1410.0).decide(observe("p", Load(), 0)), Lateness(slo, learned())
    alone = observe("p0", LOADS[3], 1.0, wait_s=0.1)

    def behind(*buckets, wait_s=0.1):
        queue = Queue(requests=1, tokens=1, oldest_wait_s=wait_s, deadlines=buckets)
        return late.at(dataclasses.replace(alone, queue=queue), wanted, levels)

    own = late.at(alone, wanted, levels)
    assert behind(bucket(9.0, 4000)) == pytest.approx(own)  # has time
    assert behind(bucket(1.5, 12_000)) == pytest.approx(own * 4 * 0.5 / 0.5)
    # What is lost already is work before what is not, and nothing more.
    lost = behind(bucket(0.9, 4000), bucket(1.5, 12_000), wait_s=0.7)
    assert lost == pytest.approx(own * 4 * 0.5 / 0.5)
    assert np.isfinite(behind(wait_s=0.7)).all()


@pytest.mark.slow
def test_shared_over_seeds_the_published_system_keeps_what_it_keeps_with_even_shares():
    """Within a point, as in docs/power-budget.md; before its lateness was known it lost four."""
    schedule = BudgetSchedule(from_s=(0.0, 15.0, 30.0), budget_w=(1200.0, 760.0, 1200.0))
    v01 = get_policy("voltana-v0.1")
    policies = {
        "even": with_power_budget(v01, schedule, shares="even"),
        "shared": with_power_budget(v01, schedule),
    }
    least = {how: [] for how in policies}
    for seed in range(3):
        base = scenario(**{ARRIVALS: {"rate_rps": 50.0, "duration_s": 40.0}}, seed=seed)
        for run in compare(dataclasses.replace(base, policies=policies)).runs:
            kept = min(run.result.ttft_attainment, run.result.itl_attainment)
            least[run.result.policy].append(kept)
    assert np.mean(least["shared"]) > np.mean(least["even"]) - 0.01
