"""Reports of results that no run can have: refused, in words, with what to do."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.report_steps import simulate, sweep
from voltana.errors import ConfigError
from voltana.evaluation.report.build import run_page, sweep_page
from voltana.evaluation.sweep.store import RESULTS

FILES = ("results.json", "series.json")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("checks") / "run", "--policy", "static-max")


def _with(folder, place, value):
    """The folder with one figure of a file put in another's place."""
    name, *path, last = place
    text = json.loads((folder / name).read_text())
    inner = text
    for key in path:
        inner = inner[key]
    inner[last] = value
    (folder / name).write_text(json.dumps(text))


RESULT = ("results.json", "results", 0)
POLICY = ("series.json", "policies", 0)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((*RESULT, "ttft_attainment"), 1.7, r"ttft_attainment.* 1\.7.*at most 1"),
        ((*RESULT, "energy_j"), -5.0, r"energy_j.* -5.*at least 0"),
        ((*RESULT, "ttft_p99_s"), float("inf"), r"ttft_p99_s.*finite"),
        ((*RESULT, "itl_p50_s"), "\uff11", r"itl_p50_s.*finite"),
        ((*RESULT, "energy_j"), 1.0, r"energy_j.* J of its roles together"),
        ((*RESULT, "requests_completed"), 10**6, r"at most requests_offered"),
        ((*RESULT, "energy_saved_vs_static_max"), 1.2, r"energy_saved.*at most 1"),
        ((*RESULT, "bindings"), {"decode": {"itl": 1.5}}, r"bindings\.decode\.itl.*at most 1"),
        ((*POLICY, "policy"), "another", "is of other policies than the results"),
        ((*POLICY, "cluster", "power_w", 0), -3.0, r"power_w.*at least 0"),
        ((*POLICY, "cluster", "kv_tokens"), [1.0], r"kv_tokens must be a list of \d+ figures"),
        ((*POLICY, "units", "total_gpu_energy_j"), 12.0, r"total_gpu_energy_j.* J of its results"),
        ((*POLICY, "units", "total_gpu_energy_kwh"), 9.0, r"total_gpu_energy_j.* J of its kWh"),
        (("results.json", "scenario", "slo", "itl_ms"), -1.0, r"scenario\.slo\.itl_ms.*at least 0"),
    ],
)  # fmt: skip
def test_an_impossible_figure_of_a_run_is_named(run_folder, tmp_path, place, value, said):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    run_page(folder)
    _with(folder, place, value)
    with pytest.raises(ConfigError, match=said) as raised:
        run_page(folder)
    assert "Run it again: voltana simulate" in str(raised.value)


def _said_of(folder):
    """What a report refuses the folder with, nothing if it does not."""
    try:
        run_page(folder)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", [None, "x", [], {}, 5, [1], {"a": 1}])
def test_damage_is_told_in_words_of_its_reader(run_folder, tmp_path, name, value):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    whole = (folder / name).read_text()
    for key in json.loads(whole):
        (folder / name).write_text(whole)
        _with(folder, (name, key), value)
        assert not re.search(r"[A-Z]\w+Error|NoneType|subscript|unhashable", _said_of(folder))


@pytest.mark.parametrize(
    ("column", "value"),
    [("ttft_attainment", 1.5), ("energy_j", -1.0), ("energy_j", 1.0)],
)
def test_an_impossible_figure_of_a_sweep_is_named(tmp_path, column, value):
    path = sweep(tmp_path, policies=("static-max",)) / RESULTS
    table = parquet.read_table(path)
    place = table.column_names.index(column)
    false = pa.array([value] * len(table), pa.float64())
    parquet.write_table(table.set_column(place, table.field(place), false), path)
    with pytest.raises(ConfigError, match=f"result 1: {column}") as raised:
        sweep_page(tmp_path, {})
    assert "Give the command of the sweep again" in str(raised.value)
