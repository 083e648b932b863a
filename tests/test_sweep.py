"""Sweeps: what may be varied, what is run, what is kept, and what is said when it cannot be."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.sweep_steps import SHORT
from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation.compare import compare
from voltana.evaluation.metrics import COLOCATED_FIGURES, plain_figures
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep
from voltana.evaluation.sweep.fields import field_name, parse_axis, scenario_fields
from voltana.evaluation.sweep.knowledge import board_knowledge, caveats
from voltana.evaluation.sweep.rows_file import read_rows
from voltana.evaluation.sweep.store import PLAN, RESULTS
from voltana.evaluation.sweep.table import TIMED, read_parquet, read_results, write_parquet
from voltana.evaluation.sweep.work import Outcome, attempt


class InThisProcess:
    """Runs tasks here, one after the other; `fail` may say that one failed."""

    def __init__(self):
        self.ran = []

    def run(self, tasks):
        for task in tasks:
            self.ran.append(task.key)
            yield attempt(task)


def short_plan(**grid):
    return make_plan(SHORT, grid or {"seed": [1, 2]})


# --- fields -------------------------------------------------------------------------------------


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
        ("levels=[all]", "is not a JSON list"),
    ],
)
def test_axes_that_say_nothing_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_axis(text)


# --- plans --------------------------------------------------------------------------------------


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


# --- running ------------------------------------------------------------------------------------


def test_figures_are_those_of_a_comparison(tmp_path):
    outcome = run_sweep(short_plan(seed=[3]), tmp_path, LocalWorkers(1))
    runs = compare(load_scenario(None, {**SHORT, "seed": 3})).runs
    assert len(outcome.rows) == len(runs) == 2
    for row, run in zip(outcome.rows, runs, strict=True):
        wanted = run.result.to_dict()
        assert {k: row[k] for k in wanted if k not in TIMED} == {
            k: v for k, v in wanted.items() if k not in TIMED
        }


def test_what_is_kept_is_not_run_again_and_a_grid_may_grow(tmp_path):
    first, again, more = InThisProcess(), InThisProcess(), InThisProcess()
    one = run_sweep(short_plan(seed=[1, 2]), tmp_path, first)
    same = run_sweep(short_plan(seed=[1, 2]), tmp_path, again)
    grown = run_sweep(short_plan(seed=[0, 1, 2]), tmp_path, more)
    assert (len(first.ran), len(again.ran), len(more.ran)) == (2, 0, 1)
    assert same.rows == one.rows == grown.rows[2:]


def test_a_record_that_is_broken_is_run_again(tmp_path):
    plan = short_plan()
    before = run_sweep(plan, tmp_path, InThisProcess())
    (tmp_path / "runs" / f"{plan.points[0].key}.json").write_text('{"key": ')
    again = InThisProcess()
    after = run_sweep(plan, tmp_path, again)
    assert again.ran == [plan.points[0].key]
    untimed = [{k: v for k, v in row.items() if k not in TIMED} for row in before.rows]
    assert untimed == [{k: v for k, v in row.items() if k not in TIMED} for row in after.rows]


def slow_one(name):
    """A policy source; "killed" ends the process that makes it, but not this one."""
    from voltana.policies import get_policy

    if name == "killed" and "SWEEP_TEST_PID" in os.environ:
        if int(os.environ["SWEEP_TEST_PID"]) != os.getpid():
            os.kill(os.getpid(), signal.SIGKILL)
    elif name == "raises":
        return dataclasses.replace(get_policy("static-max"), control=raises)
    return get_policy("static-max")


def raises(context):
    raise RuntimeError("no clocks today")


def test_what_fails_or_dies_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEP_TEST_PID", str(os.getpid()))
    compared = [["fine"], ["killed"], ["raises"], ["fine", "well"]]
    plan = make_plan(SHORT, {"policy": compared}, policy_source=f"{__name__}:slow_one")
    outcome = run_sweep(plan, tmp_path, LocalWorkers(2))
    assert [row["policy"] for row in outcome.rows] == ["fine", "fine", "well"]
    assert outcome.ran == 2
    killed, raised = (outcome.failures[plan.points[index].key] for index in (1, 2))
    assert killed.startswith("its process ended with signal 9, 2 times.")
    assert "no clocks today" in raised


def test_a_policy_source_has_to_make_policies():
    with pytest.raises(ConfigError, match=r"made a list of 'a': must make a voltana"):
        make_plan(SHORT, {"policy": ["a"]}, policy_source="builtins:list")
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        make_plan(SHORT, {"policy": ["a"]}, policy_source=f"{__name__}:nothing")


def test_a_folder_is_one_sweep_s_at_a_time(tmp_path):
    class Meanwhile:
        def run(self, tasks):
            with pytest.raises(ConfigError, match="in use by another sweep"):
                run_sweep(short_plan(), tmp_path, InThisProcess())
            yield from InThisProcess().run(tasks)

    assert run_sweep(short_plan(), tmp_path, Meanwhile()).ran == 2


def test_runs_of_other_code_are_not_mixed(tmp_path):
    run_sweep(short_plan(), tmp_path, InThisProcess())
    plan = json.loads((tmp_path / PLAN).read_text())
    (tmp_path / PLAN).write_text(json.dumps({**plan, "code": "older", "voltana": "0.0.9"}))
    with pytest.raises(ConfigError, match=r"of voltana 0\.0\.9 \(code older.*Take anoth"):
        run_sweep(short_plan(), tmp_path, InThisProcess())
    (tmp_path / PLAN).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        run_sweep(short_plan(), tmp_path, InThisProcess())


# --- Parquet ------------------------------------------------------------------------------------


def test_parquet_gives_the_rows_back_and_leaves_out_what_the_machine_took(tmp_path):
    outcome = run_sweep(short_plan(), tmp_path, InThisProcess())
    results, timing = write_parquet(outcome.rows, tmp_path)
    read = read_parquet(results)
    assert len(read) == 4
    for row, kept in zip(outcome.rows, read, strict=True):
        told = row | dict.fromkeys(COLOCATED_FIGURES)  # columns, though no run here tells them
        assert kept == {name: told[name] for name in kept}
        assert set(row) - set(kept) == set(TIMED)
    assert set(parquet.read_table(timing).column_names) == {"run", "policy", *TIMED}


def test_the_same_runs_make_the_same_bytes(tmp_path):
    plan = short_plan(seed=[1, 2, 3])
    one = run_sweep(plan, tmp_path / "a", InThisProcess())
    two = run_sweep(plan, tmp_path / "b", LocalWorkers(2))
    files = [write_parquet(o.rows, tmp_path / n)[0] for o, n in ((one, "a"), (two, "b"))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_parquet_of_another_version_or_of_something_else_is_refused(tmp_path):
    path = tmp_path / RESULTS
    table = pa.table({"a": [1]})
    form = json.dumps({"form": 99, "voltana": "9.0"})
    parquet.write_table(table.replace_schema_metadata({"voltana_sweep_form": form}), path)
    with pytest.raises(ConfigError, match=r"written by voltana 9\.0 in form 99; .* reads form 2\."):
        read_parquet(path)
    parquet.write_table(table, path)
    with pytest.raises(ConfigError, match="is not of a sweep"):
        read_parquet(path)
    with pytest.raises(ConfigError, match=r"results\.parquet without the sweep that made it"):
        run_sweep(short_plan(), tmp_path, InThisProcess())
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read_parquet(path)
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read_parquet(tmp_path / "none.parquet")


@pytest.mark.parametrize("damage", ["figure", "code", "rows"])
def test_a_record_without_its_figures_or_of_other_code_is_run_again(tmp_path, damage):
    plan = short_plan()
    run_sweep(plan, tmp_path, InThisProcess())
    path = tmp_path / "runs" / f"{plan.points[0].key}.json"
    record = json.loads(path.read_text())
    if damage == "figure":
        del record["rows"][1]["energy_j"]
    elif damage == "code":
        record["code"] = "older"
    else:
        record["rows"] = "none"
    path.write_text(json.dumps(record))
    again = InThisProcess()
    assert len(run_sweep(plan, tmp_path, again).rows) == 4
    assert again.ran == [plan.points[0].key]


def test_a_damaged_plan_costs_no_run_once_it_is_deleted(tmp_path):
    write_parquet(run_sweep(short_plan(), tmp_path, InThisProcess()).rows, tmp_path)
    (tmp_path / PLAN).write_text('{"code": ')
    with pytest.raises(ConfigError, match="Delete this file and give the same command again"):
        run_sweep(short_plan(), tmp_path, InThisProcess())
    (tmp_path / PLAN).unlink()
    assert run_sweep(short_plan(), tmp_path, InThisProcess()).ran == 0


def test_results_say_what_of_their_boards_is_inferred(tmp_path):
    rows = run_sweep(short_plan(hardware=["h100-sxm"]), tmp_path, InThisProcess()).rows
    read = read_results(write_parquet(rows, tmp_path)[0])
    assert read.knowledge == board_knowledge(rows)
    (line,) = caveats(read.knowledge)
    assert line.startswith("h100-sxm, inferred: power below the fastest clock")


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


def test_the_outcome_of_a_task_is_plain_and_small():
    task_rows = attempt_of(short_plan().points[0])
    assert isinstance(task_rows, Outcome)
    assert len(json.dumps(task_rows.rows, allow_nan=False)) < 8000


def test_what_a_search_found_is_kept_and_read_again(tmp_path):
    """Its figures come from arrays, whose scalars are no JSON."""
    short = {**SHORT, "policies": ["static-max", "best-fixed"], "levels": "705,1410"}
    plan = make_plan(short, {"seed": [1]})
    outcome = run_sweep(plan, tmp_path, InThisProcess())
    assert not outcome.failures
    assert outcome.rows[1]["chosen_keeps_slo"] in (True, False)
    again = run_sweep(plan, tmp_path, InThisProcess())
    assert (again.ran, again.rows) == (0, outcome.rows)


@pytest.mark.parametrize(
    ("figure", "plain"),
    [
        (np.bool_(True), True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        ({"inside": math.inf, "count": np.int64(2)}, {"inside": None, "count": 2}),
        ((1.0, np.float64("-inf")), [1.0, None]),
    ],
)
def test_figures_are_plain_json_whatever_they_were_computed_with(figure, plain):
    made = plain_figures({"figure": figure})
    assert json.loads(json.dumps(made, allow_nan=False)) == {"figure": plain}


def attempt_of(point):
    from voltana.evaluation.sweep import Task

    return attempt(Task(key=point.key, scenario=point.file.model_dump(mode="json")))


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
