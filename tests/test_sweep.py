"""Sweeps: what may be varied, what is said when it cannot be, and what a script gets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sweep_steps import SHORT, short_plan
from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation.sweep import make_plan
from voltana.evaluation.sweep.fields import field_name, parse_axis, scenario_fields
from voltana.evaluation.sweep.rows_file import read_rows


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("seed", "seed"),
        ("policy", "policies"),
        ("cluster.prefill", "cluster.prefill"),
        ("itl_ms", "slo.itl_ms"),
        ("slo-itl-ms", "slo.itl_ms"),
        ("rate", "arrivals.rate_rps"),
        ("rate_rps", "arrivals.rate_rps"),
        ("workload.rate_rps", "workload.rate_rps"),
        ("hardware", "cluster.hardware"),
        ("pd", "pd"),
    ],
)
def test_a_field_goes_by_its_dotted_name_its_last_part_or_its_flag(given, meant):
    assert field_name(given) == meant


def test_every_field_of_a_scenario_may_be_varied():
    assert len(scenario_fields()) > 35
    assert all(field_name(name) == name for name in scenario_fields())


def test_an_unknown_field_is_named_with_the_nearest_known_one():
    with pytest.raises(UnknownNameError, match=r"'slo.itl'\. Did you mean 'slo.itl_ms'\?"):
        parse_axis("slo.itl=40,50")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rate=40,50.5", (40, 50.5)),
        ("seed=11..13", (11, 12, 13)),
        ("rate=50..100..25", (50, 75, 100)),
        ("itl_ms=0.1..0.3..0.1", (0.1, 0.2, 0.3)),
        ("rate=1e-12..3e-12..1e-12", (1e-12, 2e-12, 3e-12)),
        ("rate=1e3..3e3..1e+3", (1000, 2000, 3000)),
        ("levels=published,even:5,none", ("published", "even:5", None)),
        ('levels=["1005,1410", "all"]', ("1005,1410", "all")),
        ("engine.transfer=true,false", (True, False)),
        ("workload=nan,sharegpt", ("nan", "sharegpt")),
        ("trace=../a..b.csv", ("../a..b.csv",)),
    ],
)
def test_values_are_lists_ranges_or_json(text, values):
    assert parse_axis(text)[1] == values


@given(
    st.integers(-1000, 1000), st.integers(0, 300), st.sampled_from([0.1, 0.25, 0.5, 1, 2, 5, 10])
)
def test_a_range_holds_both_ends_and_even_steps(first, steps, step):
    last = first + steps * step
    values = parse_axis(f"rate={first}..{last:g}..{step:g}")[1]
    assert len(values) == steps + 1
    assert values == pytest.approx([first + index * step for index in range(steps + 1)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed", "must be FIELD=VALUES"),
        ("seed=", "has no values, so that the grid is empty"),
        ("seed=,,", "has no values"),
        ("seed=[]", "has no values"),
        ("seed=5..1", "smallest first"),
        ("seed=1..5..0", "smallest first"),
        ("seed=1..9999999", "1 to 100000 values"),
        (f"rate=1..{'9' * 400}", "1 to 100000 values"),
        ("rate=1..2..1e-300", "1 to 100000 values"),
        ("levels=[all]", "is not a JSON list"),
    ],
)
def test_axes_that_say_nothing_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_axis(text)


def test_a_grid_is_every_combination_the_last_axis_fastest():
    plan = short_plan(pd=["1:1", "1P2D"], seed=[1, 2])
    found = [(p.file.cluster.prefill, p.file.cluster.decode, p.file.seed) for p in plan.points]
    assert found == [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2)]
    assert plan.fields == ("pd", "seed")


def test_policies_as_an_axis_are_one_comparison_and_lists_of_them_several():
    (point,) = short_plan(policy=["static-low", "static-max"]).points
    assert point.file.policies == ("static-low", "static-max")
    one, two = short_plan(policy=[["static-low"], ["static-max", "window"]]).points
    assert (one.file.policies, two.file.policies) == (("static-low",), ("static-max", "window"))


def test_the_same_scenario_is_run_once_whatever_names_it():
    plan = make_plan(SHORT, None, [{"rate": 4}, {"workload.rate_rps": 4.0}, {"rate_rps": 5}])
    assert [p.file.workload.rate_rps for p in plan.points] == [4.0, 5.0]
    (same,) = make_plan(SHORT, {"decode": [1]}).points
    assert same == plan.points[0]


def test_a_scenario_is_known_by_the_content_of_the_files_that_it_names(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,5,5\n1,5,5\n")
    key = make_plan({"trace": {"file": str(trace)}}, {"seed": [1]}).points[0].key
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,5,5\n1,5,6\n")
    assert make_plan({"trace": {"file": str(trace)}}, {"seed": [1]}).points[0].key != key


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (({}, None), "the sweep is empty: no field is varied"),
        (({"seed": []}, None), "has no values"),
        ((None, []), "the sweep is empty"),
        (({"seed": range(1000), "rate": range(1, 1001)}, None), "at most 100000 scenarios"),
        (({"rate": [1], "rate_rps": [2]}, None), "varied twice"),
        (({"seed": [1, -1]}, None), r"seed = -1: seed = -1 is not allowed: must be at least 0"),
        (({"model": ["gpt-2"]}, None), "cluster.model = gpt-2: unknown model"),
        (({"workload": ["novels"]}, None), "workload.name = novels: unknown"),
        (({"policy": ["none-such"]}, None), "unknown policy 'none-such'"),
        (({"rate": [5.0], "policy": ["none-such"]}, None), "^rate_rps = 5.0, policies = "),
        (({"trace": ["/no/such.csv"]}, None), "cannot be read: No such file"),
        (({"itl_ms": [0.01]}, None), "slo.itl_ms = 0.01: slo.itl_ms = 0.01 is not allowed"),
        (({"pd": ["two"]}, None), "must be PREFILL:DECODE"),
        (({"seed": [{}]}, None), r"seed = \{\} is not allowed: must be a value, not an object"),
        ((None, [{"rate": 4}, {"seed": {}}]), r"seed = \{\} is not allowed"),
        (({"rate": [4.0], "duration": [2.0, 1e12]}, None), "at most 50000000 requests"),
        (({"power_budget": [5000, 1]}, None), r"^power_budget_w = 1: .*must be at least \d+ W"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(arguments, said):
    with pytest.raises(ConfigError, match=said):
        make_plan(SHORT, *arguments)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", '[{"seed": 1, "slo": {"itl_ms": 50}}, {"seed": 2, "slo.itl_ms": 60}]'),
        ("rows.jsonl", '{"seed": 1, "itl_ms": 50}\n\n{"seed": 2, "itl_ms": 60}\n'),
        ("rows.csv", "seed,slo.itl_ms\n1,50\n2,60\n"),
        ("rows.toml", "[[run]]\nseed = 1\nslo.itl_ms = 50\n[[run]]\nseed = 2\nitl_ms = 60\n"),
    ],
)
def test_a_list_is_json_lines_csv_or_toml(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    plan = make_plan(SHORT, None, read_rows(tmp_path / name))
    assert [(p.file.seed, p.file.slo.itl_ms) for p in plan.points] == [(1, 50.0), (2, 60.0)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.json", "[]", "holds no rows, so that the sweep is empty"),
        ("rows.json", '[{"seed": 1}, 1]', "row 2 of list .* is 1: must be an object"),
        ("rows.csv", "seed\n", "holds no rows"),
        ("rows.csv", "seed,rate\n1,2\n1\n", "row 2 of list .* not as long as its header"),
        ("rows.jsonl", '{"seed": 1}\n{"seed":\n', "cannot be read: .*: line 2 column 9"),
        ("rows.jsonl", '{}\n\n{"seed": 1, "seed": 2}\n', "cannot be read: line 3: "),
        ("rows.toml", "runs = 1", "holds no rows"),
        ("rows.json", "[{", "cannot be read"),
        ("rows.xlsx", "PK", "a .json, .jsonl, .csv or .toml file"),
        ("rows.csv", "seed,seed\n1,2\n", "column 'seed' twice"),
        ("rows.json", '[{"cluster": {"prefill": 1}, "cluster.prefill": 2}]', "twice"),
        ("rows.csv", 'seed,levels\n1,"x\n', "cannot be read"),
    ],
)
def test_a_list_that_is_none_or_says_a_field_twice_is_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_rows(tmp_path / name)


def sweep_command(*arguments):
    command = [sys.executable, "-m", "voltana", "sweep", "--grid", "pd=1:1", "--grid", "duration=1"]
    return subprocess.run(
        [*command, "--policy", "static-max", "--workers", "1", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_script_gets_json_and_nothing_else(tmp_path):
    done = sweep_command("--grid", "seed=1,1,2", "--out", tmp_path / "ein Ordner ☃", "--json", "-")
    said = json.loads(done.stdout)
    assert (said["scenarios"], said["ran"], said["failures"]) == (2, 2, {})
    assert [row["seed"] for row in said["rows"]] == [1, 2]
    assert said["knowledge"]["a100-sxm4-80gb"]["inferred"]
    assert "a100-sxm4-80gb, inferred: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--grid", "seed=1", "--out", "/dev/null/x"), "folder '/dev/null/x' cannot be made"),
        (("--grid", "seed=1", "--json", "/"), "'/' cannot be written: it is a directory"),
        (("--policy", "window", "--grid", "policy=static-low"), "both say which policies"),
        (("--grid", "seed=1..90000", "--workers", "0"), "workers = 0 is not allowed"),
        (("--grid", "seed=1..1000", "--grid", "rate=1..1000"), "sweep = 1000000 is not allowed"),
    ],
)
def test_what_cannot_be_is_said_at_once_and_leaves_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    done = sweep_command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_workers_load_neither_parquet_nor_plots():
    code = "import voltana.evaluation.sweep.local, sys; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "matplotlib", "typer"} & set(done.stdout.split())


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "sweep.md").read_text()
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], namespace)
    assert set(namespace["saved"]) == {2.0, 4.0}
    assert all(share is not None for share in namespace["saved"].values())
