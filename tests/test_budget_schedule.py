"""Power budgets that change with time: what holds when, and what a cluster draws under one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import make_plan
from voltana.policies import get_policy, with_power_budget

ROWS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=8)
LOW_FROM_S, LOW_UNTIL_S, HIGH_W, LOW_W = 10.0, 20.0, 1200.0, 760.0


@given(rows=ROWS, now=st.integers(-5, 60), wait=st.integers(0, 20))
def test_the_smallest_of_a_stretch_is_that_of_its_instants(rows, now, wait):
    rows = sorted(dict(rows).items())
    schedule = BudgetSchedule(
        from_s=tuple(float(t) for t, _ in rows), budget_w=tuple(float(w) for _, w in rows)
    )

    def holds(at):
        return next((w for t, w in reversed(rows) if t <= at), rows[0][1])

    assert schedule.least_until_w(now, now + wait) == min(
        holds(at) for at in range(now, now + wait + 1)
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "budget.csv"
    path.write_text(f"time,watts\n0,{HIGH_W}\n{LOW_FROM_S},{LOW_W}\n{LOW_UNTIL_S},{HIGH_W}\n")
    return path


def scenario(file, **more):
    return load_scenario(
        None,
        {
            "policies": ["static-max"],
            "power_budget_file": str(file),
            "workload": {"rate_rps": 50.0, "duration_s": 28.0},
            **more,
        },
    )


def test_a_cluster_keeps_what_holds_when_and_uses_what_is_there(file):
    power_w = compare(scenario(file)).runs[0].record.power_w
    low = slice(int(LOW_FROM_S), int(LOW_UNTIL_S))
    assert power_w[low].max() <= LOW_W
    assert power_w.max() <= HIGH_W
    assert power_w[3:9].mean() > LOW_W < power_w[22:27].mean()


@pytest.mark.slow
def test_a_shared_budget_keeps_more_of_what_is_kept_least_than_even_shares(file):
    """Over seeds: of one of them, either may be ahead by points (docs/power-budget.md)."""
    load = {"rate_rps": 50.0, "duration_s": 40.0}
    least = {"even": [], "shared": []}
    for seed in range(4):
        base = scenario(file, policies=["voltana"], workload=load, seed=seed)
        policies = {
            name: with_power_budget(get_policy("voltana"), base.budget, shares=shares)
            for name, shares in (("even", "even"), ("shared", "worth"))
        }
        free = dataclasses.replace(base, policies=policies, budget=None)
        for name, run in zip(policies, compare(free).runs, strict=True):
            least[name].append(min(run.result.ttft_attainment, run.result.itl_attainment))
    assert np.mean(least["shared"]) > np.mean(least["even"])


def test_rows_that_are_none_are_named(tmp_path, file):
    bad = tmp_path / "bad.csv"
    for text, said in (
        ("0,900\nlater,700\n", r"power_budget_file: row 2 .* must be a time"),
        ("0,900\n10\n", r"row 2 .* a number of watts"),
        ("0,900\n10,-5\n", r"power budget = -5\.0 .* above 0 W"),
        ("10,900\n0,800\n", "ascending times"),
        ("", "at least one row"),
    ):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=said):
            scenario(bad)
    with pytest.raises(ConfigError, match="No such file"):
        scenario(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="both 'power_budget_w' and 'power_budget_file'"):
        scenario(file, power_budget_w=900.0)
    bad.write_text("0,900\n10,100\n")
    with pytest.raises(ConfigError, match=r"at least .* W: the 2 prefill and 2 decode"):
        compare(scenario(bad))


def test_the_lowest_level_of_the_user_s_own_decides_what_a_budget_has_to_cover():
    asked = {"workload": {"rate_rps": 5.0, "duration_s": 2.0}, "policies": ["static-max"]}
    budget_w = 700.0
    compare(load_scenario(None, {**asked, "power_budget_w": budget_w}))
    with pytest.raises(ConfigError, match="power_budget_w = 700"):
        compare(load_scenario(None, {**asked, "power_budget_w": budget_w, "levels": "1410"}))


def test_a_sweep_knows_a_schedule_by_its_content(file, tmp_path):
    other = tmp_path / "other.csv"
    other.write_bytes(file.read_bytes())
    grid = {"budget-schedule": [str(file), str(other)]}
    first = make_plan({"policies": ["static-max"]}, grid)
    other.write_text("0,2000\n")
    second = make_plan({"policies": ["static-max"]}, grid)
    keys = [[point.key for point in plan.points] for plan in (first, second)]
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
    assert np.unique(keys[0]).size == 2
