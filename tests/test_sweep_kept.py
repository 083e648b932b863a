"""What a sweep runs, keeps and reads again, and what becomes of records that are broken."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.sweep_steps import SHORT, InThisProcess, short_plan
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.metrics import COLOCATED_FIGURES, plain_figures
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep
from voltana.evaluation.sweep.knowledge import board_knowledge, caveats
from voltana.evaluation.sweep.store import PLAN, RESULTS
from voltana.evaluation.sweep.table import TIMED, read_parquet, read_results, write_parquet
from voltana.evaluation.sweep.work import Outcome, attempt


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
    with pytest.raises(ConfigError, match="Delete it and give the same command again"):
        run_sweep(short_plan(), tmp_path, InThisProcess())
    (tmp_path / PLAN).unlink()
    assert run_sweep(short_plan(), tmp_path, InThisProcess()).ran == 0


def test_results_say_what_of_their_boards_is_inferred(tmp_path):
    rows = run_sweep(short_plan(hardware=["h100-sxm"]), tmp_path, InThisProcess()).rows
    read = read_results(write_parquet(rows, tmp_path)[0])
    assert read.knowledge == board_knowledge(rows)
    (line,) = caveats(read.knowledge)
    assert line.startswith("h100-sxm, inferred: power below the fastest clock")


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
