"""Fixed clocks of an earlier search: kept, read, run anew in place of a search."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from voltana.cli.main import app
from voltana.errors import ConfigError
from voltana.evaluation.reproduce import get_finding
from voltana.evaluation.reproduce.finding import Asked
from voltana.evaluation.reproduce.found_clocks import (
    CLOCKS,
    as_searched,
    read_clocks,
    write_clocks,
)
from voltana.evaluation.sweep.rows_file import read_rows

TRACE = {
    "cluster.model": "llama-3.1-8b",
    "workload.name": "lmsys",
    "workload.rate_rps": 75.0,
    "workload.duration_s": 120.0,
    "seed": 11,
}
HEADER = f"{','.join(TRACE)},policies\n"
FOUND = 'llama-3.1-8b,lmsys,75.0,120.0,11,"[""static-max"", ""fixed:705/1125""]"\n'


def search_of(trace, prefill_mhz, decode_mhz):
    return [
        {**trace, "policy": "static-max"},
        {
            **trace,
            "policy": "best-fixed",
            "chosen_prefill_mhz": prefill_mhz,
            "chosen_decode_mhz": decode_mhz,
        },
    ]


def test_what_a_search_found_is_read_again_and_is_a_list_of_a_sweep(tmp_path):
    traces = [{**TRACE, "seed": seed} for seed in (11, 12)]
    write_clocks([*search_of(traces[0], 705.0, 1125.0), *search_of(traces[1], 720, 1410)], tmp_path)
    assert read_clocks(tmp_path / CLOCKS) == {
        tuple(traces[0].values()): "fixed:705/1125",
        tuple(traces[1].values()): "fixed:720/1410",
    }
    first, _ = read_rows(tmp_path / CLOCKS)
    assert first == {**TRACE, "policies": ["static-max", "fixed:705/1125"]}


def test_without_a_search_nothing_is_written(tmp_path):
    write_clocks([{**TRACE, "policy": "static-max"}], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + FOUND.replace("fixed:", "voltana"), r'must be \["static-max", "fixed:MHZ/MHZ"\]'),
        (HEADER + FOUND.replace('"[""static-max"", ""fixed:705/1125""]"', "x"), "policies = 'x'"),
        (HEADER + FOUND + FOUND, "row 2 of .* is of the same trace as one before it"),
        ("seed,policies\n1,x\n", r"row 1 of .* has no cluster\.model: must have"),
        (HEADER + FOUND.replace(",11,", ",,"), "row 1 of .* has no seed"),
        (HEADER, "holds no rows"),
    ],
)
def test_what_no_search_wrote_is_refused(tmp_path, text, said):
    (tmp_path / CLOCKS).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_clocks(tmp_path / CLOCKS)


def test_clocks_of_other_traces_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CLOCKS).write_text(HEADER + FOUND, encoding="utf-8")
    given = ["reproduce", "main-result", "--clocks", CLOCKS]
    said = str(CliRunner().invoke(app, given).exception)
    assert "hold none for cluster.model = ministral-3b, workload.name = lmsys" in said
    both = str(CliRunner().invoke(app, [*given, "--no-search"]).exception)
    assert "Leave one out" in both
    assert not (tmp_path / "out").exists()


def test_clocks_stand_where_the_search_stood_and_tell_whether_they_keep_enough():
    searched = get_finding("main-result").plan(Asked())
    clocks = {}
    for point in searched.points:
        file = point.file
        served = (file.cluster.model, file.workload.name, file.workload.rate_rps, 120.0, file.seed)
        clocks[served] = "fixed:1200/1005"
    again = get_finding("main-result").plan(Asked(clocks=clocks))
    changed = [
        (old.file.policies, new.file.policies)
        for old, new in zip(searched.points, again.points, strict=True)
        if old.key != new.key
    ]
    now = ("static-max", "fixed:1410/1410", "fixed:1200/1005")
    assert set(changed) == {(("static-max", "best-fixed"), now)}
    assert 2 * len(changed) == len(again.points)


@pytest.mark.parametrize(("itl", "keeps"), [(0.98, True), (0.97, False), (None, True)])
@pytest.mark.parametrize("fastest_itl", [0.5, 0.99, None])
@pytest.mark.parametrize("static_max_itl", [0.5, 0.99, None])
def test_clocks_keep_enough_within_a_point_of_the_better_reference(
    itl, keeps, fastest_itl, static_max_itl
):
    kept = {"ttft_attainment": 0.95, "itl_attainment": 0.99, "itl_token_attainment": 1.0}
    rows = [
        {"run": "a", "policy": "static-max", **kept, "itl_attainment": static_max_itl},
        {"run": "a", "policy": "fixed:1410/1410", **kept, "itl_attainment": fastest_itl},
        {"run": "a", "policy": "fixed:1200/900", **kept, "itl_attainment": itl},
        {"run": "b", "policy": "static-max", **kept},
    ]
    reference, ours, other = as_searched(rows)
    assert (reference, other) == (rows[0], rows[3])
    assert ours["policy"] == "best-fixed"
    assert ours["chosen_keeps_slo"] is (keeps or 0.99 not in (fastest_itl, static_max_itl))


def test_clocks_that_are_the_fastest_stand_for_both():
    kept = {"ttft_attainment": 0.95, "itl_attainment": 0.99, "itl_token_attainment": 1.0}
    rows = [{"run": "a", "policy": name, **kept} for name in ("static-max", "fixed:1410/1410")]
    assert [row["policy"] for row in as_searched(rows)] == ["static-max", "best-fixed"]


@pytest.mark.parametrize("value", [[11], None, "eleven", True])
def test_a_trace_that_is_named_by_no_number_is_refused(tmp_path, value):
    row = {**TRACE, "seed": value, "policies": ["static-max", "fixed:705/1125"]}
    (tmp_path / "clocks.json").write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"row 1 of .*: seed = .* must be a number"):
        read_clocks(tmp_path / "clocks.json")


def test_a_trace_that_is_named_by_no_text_is_refused(tmp_path):
    row = {**TRACE, "cluster.model": ["a"], "policies": ["static-max", "fixed:705/1125"]}
    (tmp_path / "clocks.json").write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cluster\.model = \['a'\].* must be a name"):
        read_clocks(tmp_path / "clocks.json")
