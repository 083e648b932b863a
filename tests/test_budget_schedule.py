"""Power budgets that change with time: what holds when, and what a cluster draws under one."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.controllers.power_budget import PowerBudget
from voltana.controllers.power_claim import Claim
from voltana.errors import ConfigError
from voltana.evaluation.budget_file import read_budget
from voltana.evaluation.budget_kept import budget_kept
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import make_plan
from voltana.plant.simulation import Simulation
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


@given(rows=ROWS, longer=st.integers(1, 9), now=st.integers(-5, 150), wait=st.integers(0, 90))
def test_what_repeats_is_what_its_rows_say_of_each_round(rows, longer, now, wait):
    rows = sorted({**dict(rows), 0: 5}.items())
    repeat_s = rows[-1][0] + longer
    schedule = BudgetSchedule(
        from_s=tuple(float(t) for t, _ in rows),
        budget_w=tuple(float(w) for _, w in rows),
        repeat_s=float(repeat_s),
    )

    def holds(at):
        return next(w for t, w in reversed(rows) if t <= at % repeat_s)

    seconds = range(now, now + wait + 1)
    assert schedule.least_until_w(now, now + wait) == min(map(holds, seconds))
    means_w = schedule.means_w(np.arange(now, now + wait + 2, dtype=float))
    assert means_w == pytest.approx([holds(at) for at in seconds])


@given(rows=ROWS, edges=st.lists(st.floats(-5, 60), min_size=2, max_size=6, unique=True))
def test_means_over_stretches_add_up_to_those_over_all(rows, edges):
    rows, edges = sorted(dict(rows).items()), np.sort(edges)
    if np.diff(edges).min() < 1e-3:
        return
    schedule = BudgetSchedule(
        from_s=tuple(float(t) for t, _ in rows), budget_w=tuple(float(w) for _, w in rows)
    )
    parts_j = (schedule.means_w(edges) * np.diff(edges)).sum()
    assert parts_j == pytest.approx(
        float(schedule.means_w(edges[[0, -1]])[0]) * (edges[-1] - edges[0])
    )


def test_a_second_that_falls_in_mid_way_may_draw_the_mean():
    schedule = BudgetSchedule(from_s=(0.0, 1.25), budget_w=(800.0, 400.0))
    kept = budget_kept(np.array([700.0, 520.0, 410.0, 380.0]), schedule, None)
    assert kept["mean_w"] == pytest.approx((800 + 500 + 400 + 400) / 4)
    assert kept["over_share"] == 0.5
    assert kept["worst_excess_w"] == pytest.approx(20.0)
    assert kept["used_share"] == pytest.approx(2010 / 2100)
    assert math.isnan(budget_kept(np.zeros(0), schedule, None)["over_share"])


def test_toml_and_json_say_the_same_and_may_repeat(tmp_path):
    text = "repeat_s = 30\n[[step]]\nat_s = 0\nwatts = 1200\n[[step]]\nat_s = 10\nwatts = 760.5\n"
    rows = [{"at_s": 0, "watts": 1200}, {"at_s": 10, "watts": 760.5}]
    made = []
    for name, content in (
        ("b.toml", text),
        ("b.json", json.dumps({"repeat_s": 30, "step": rows})),
    ):
        (tmp_path / name).write_text(content)
        made.append(read_budget(tmp_path / name))
    assert made[0] == made[1]
    assert made[0].repeat_s == 30.0
    assert made[0].least_until_w(45.0, 45.0) == 760.5


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"step": []}, r"power_budget_file .*step"),
        ({"step": [{"at_s": 0, "watts": -1}]}, r"step\.0\.watts = -1.*above 0|step.*watts"),
        ({"step": [{"at_s": 0, "watt": 1}]}, "watt"),
        ({"step": [{"at_s": 5, "watts": 9}, {"at_s": 5, "watts": 8}]}, r"row 2 .* ascending times"),
        ({"step": [{"at_s": 5, "watts": 9}], "repeat_s": 30}, r"first row of what repeats"),
        (
            {"step": [{"at_s": 0, "watts": 9}, {"at_s": 9, "watts": 8}], "repeat_s": 4},
            r"repeat_s = 4.* above 9 s",
        ),
    ],
)
def test_a_schedule_that_is_none_is_refused_in_words(tmp_path, tables, said):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(tables))
    with pytest.raises(ConfigError, match=said):
        read_budget(path)


def test_a_file_that_is_no_toml_is_refused_in_words(tmp_path):
    path = tmp_path / "b.toml"
    path.write_text("watts = [")
    with pytest.raises(ConfigError, match=r"cannot be read: .*power-budget\.md"):
        read_budget(path)


def test_shares_without_a_budget_are_refused():
    with pytest.raises(ConfigError, match=r"power_shares = 'even' without a power budget"):
        load_scenario(None, {"power_shares": "even"})
    with pytest.raises(ConfigError, match=r"power_shares = 'odd'"):
        load_scenario(None, {"power_shares": "odd", "power_budget_w": 900.0})


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


def drawn(given, policy, *, step_s=0.1, until_s=22.0, settled_s=4.0):
    """Mean power of all boards over each `step_s` after the power models have learned."""
    simulation = Simulation(
        given.cluster, given.configured(get_policy(policy)), given.trace, plant=given.plant
    )
    edges_s = np.arange(round(until_s / step_s) + 1) * step_s
    energy_j = []
    for at_s in edges_s:
        simulation.run(until_s=at_s)
        energy_j.append(simulation.energy_j())
    late = slice(round(settled_s / step_s), None)
    return edges_s[late], np.diff(energy_j)[late] / step_s


OTHERS = {
    "hopper": {"hardware": "h100-sxm", "model": "ministral-3b", "prefill": 1, "decode": 2},
    "two boards": {"hardware": "a100-sxm4-80gb", "model": "qwen3-32b"},
    "colocated": {"colocated": 3},
    "seldom seen": {"hardware": "l40s", "model": "ministral-3b", "prefill": 2, "decode": 1},
}


@pytest.mark.parametrize("shares", ["even", "worth"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_second_is_within_the_budget_just_after_it_fell_too(name, shares, tmp_path):
    """From whichever tenth it begins; on clusters that nobody tuned on and that want it all."""
    load = {"rate_rps": 40.0, "duration_s": 22.0}
    asked = {"cluster": OTHERS[name], "policies": ["static-max"], "workload": load}
    free = load_scenario(None, asked).cluster
    limit_w = (
        free.hardware.tdp_w * free.tensor_parallel * (free.prefill + free.decode + free.colocated)
    )
    steps = [(0.0, 0.8), (10.05, 0.6), (16.0, 0.75)]
    path = tmp_path / "b.json"
    path.write_text(
        json.dumps({"step": [{"at_s": t, "watts": share * limit_w} for t, share in steps]})
    )
    given = load_scenario(None, {**asked, "power_budget_file": str(path), "power_shares": shares})
    edges_s, power_w = drawn(given, "static-max")
    allowed_w = given.budget.means_w(edges_s)
    second = np.full(10, 0.1)
    means_w, may_w = (np.convolve(watts, second, mode="valid") for watts in (power_w, allowed_w))
    assert (means_w / may_w).max() <= 1.0
    # Power models learn from whole seconds: within one, what is above their mean is not known.
    assert (power_w / allowed_w).max() <= 1.25


def test_a_fall_is_heeded_by_the_longest_iteration_sooner():
    """A prompt of a second that begins 0.6 s before a fall has to be at its clock already."""
    schedule = BudgetSchedule(from_s=(0.0, 10.0), budget_w=(800.0, 300.0))
    budget = PowerBudget(schedule)
    for name in ("p0", "d0"):
        budget.register(name, 100.0)
    levels_w, late = np.array([100.0, 200.0, 400.0]), np.array([2.0, 1.5, 1.0])
    short = Claim(floor_w=100.0, levels_w=levels_w, lateness=late, peak_w=400.0, holds_s=0.02)
    long = dataclasses.replace(short, holds_s=1.0)
    assert budget.grant_w("d0", 9.4, short) >= 400.0
    assert budget.grant_w("p0", 9.4, long) <= 200.0
    assert budget.grant_w("d0", 9.41, short) <= 200.0  # for the long one is under way still


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
        ("", r"must hold at least one row of a time and a number of watts"),
        ("0,900\n10,-5\n", r"row 2 .* is -5 W: must be above 0 W"),
        ("0,900\n10,800\n10,700\n", r"ascending times"),
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


@pytest.mark.parametrize("form", ["csv", "toml"])
def test_a_schedule_that_falls_below_the_floors_is_refused_by_its_row(form, tmp_path):
    path = tmp_path / f"low.{form}"
    rows = [(0, 900), (10, 100), (20, 900), (30, 90)]
    if form == "csv":
        path.write_text("".join(f"{at_s},{watts}\n" for at_s, watts in rows))
    else:
        path.write_text("".join(f"[[step]]\nat_s = {a}\nwatts = {w}\n" for a, w in rows))
    said = (
        r"power_budget_file: row 2 of '.*low.*' \(from 10 s\) is 100 W, and 1 more row is too low: "
        r"must be at least \d+ W: the 2 prefill and 2 decode instances .* Raise them, or run fewer"
    )
    with pytest.raises(ConfigError, match=said):
        compare(scenario(path))


def test_a_ledger_names_the_row_that_does_not_cover_its_instances():
    ledger = PowerBudget(BudgetSchedule(from_s=(0.0, 60.0), budget_w=(500.0, 150.0)))
    ledger.register("one", 100.0)
    said = r"power_budget_w = 150 in row 2 of the schedule \(from 60 s\) .* at least 200 W for 2"
    with pytest.raises(ConfigError, match=said):
        ledger.register("two", 100.0)


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
