"""Reports without a browser: what is in the page, what is not, and what is said instead."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.report_steps import Here, page_of_run, page_of_sweep, simulate, sweep
from tests.sweep_steps import SHORT
from voltana.cli.main import app
from voltana.cli.report import report
from voltana.errors import ConfigError
from voltana.evaluation.compare import compare
from voltana.evaluation.report.build import run_page, sweep_page
from voltana.evaluation.report.figures import Palette
from voltana.evaluation.report.labels import FIELDS, labelled, with_value
from voltana.evaluation.report.page import render
from voltana.evaluation.report.run_timelines import power
from voltana.evaluation.report.series import kv_tokens, read_series
from voltana.evaluation.report.timeline_panels import timelines
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import make_plan, run_sweep
from voltana.evaluation.sweep.fields import scenario_fields
from voltana.evaluation.sweep.store import PLAN, RESULTS
from voltana.evaluation.sweep.table import write_parquet
from voltana.evaluation.wording import kilojoules, significant

MOST_BYTES = 8_000_000


class Seen(HTMLParser):
    """Headings, links of every kind, and text of cells."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.outside, self.cells, self._in = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._in = tag
        for name, value in attributes:
            if name in {"src", "href", "data", "action"} and not value.startswith("#"):
                self.outside.append(value)

    def handle_data(self, data):
        if self._in == "h2":
            self.headings.append(data)
        elif self._in in {"td", "th"}:
            self.cells.append(data)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    page_of_run(folder, "--uncertainty")
    return folder


def test_a_run_s_report_has_every_figure_and_asks_for_nothing(run_folder):
    text = (run_folder / "report.html").read_text()
    seen = Seen(text)
    assert len(text.encode()) < MOST_BYTES
    assert seen.outside == []
    assert "default-src 'none'" in text
    for heading in ("Energy", "Attainment", "How sure the savings are", "TTFT", "Timelines",
                    "Power over time", "What decisions promised", "What bound each decision",
                    "Units", "What it comes to"):  # fmt: skip
        assert heading in seen.headings


def test_its_tables_hold_the_figures_of_the_results(run_folder):
    seen = Seen((run_folder / "report.html").read_text())
    for result in json.loads((run_folder / "results.json").read_text())["results"]:
        assert result["policy"] in seen.cells
        assert significant(result["energy_j"] / 1e3) in seen.cells
        assert f"{100 * result['ttft_attainment']:.1f} %" in seen.cells
        assert significant(result["spent"]["EUR"]) in seen.cells


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.1, 3, "0.100"),
        (0.09996, 3, "0.100"),
        (24.0, 3, "24.0"),
        (123.4, 3, "123"),
        (999.96, 3, "1,000"),
        (1234.0, 4, "1234"),
        (59_874_321.4, 4, "59,874,321"),
        (-0.5, 4, "-0.5000"),
        (0.0, 4, "0"),
        (2.5e-7, 3, "2.50e-07"),
        (float("nan"), 3, "-"),
    ],
)
def test_a_figure_has_all_its_digits(value, digits, text):
    assert significant(value, digits) == text


def test_small_energies_have_three_digits_in_tables_and_plots():
    assert [kilojoules(j) for j in (100.0, 2e3, 9_994.0, 12_340.0)] == [
        "0.100",
        "2.00",
        "9.99",
        "12.3",
    ]


def test_eight_instances_are_eight_lines():
    names = [f"{role}-{n}" for role in ("prefill", "decode") for n in range(4)]
    series = {"t_s": [0.0], "clock_mhz": [1.0], "batch": [1.0], "latency_ms": [1.0]}
    cluster = {"t_s": [0.0], "waiting": [0.0], "kv_tokens": [0.0]}
    policy = {
        "policy": "voltana",
        "instances": [{"instance": n, "role": n[:-2], **series} for n in names],
        "cluster": cluster,
    }
    drawn = timelines([policy], {"itl_ms": 65.0})[0].traces
    lines = {str(trace["line"]) for trace in drawn if trace["name"] in names}
    assert len(lines) == len(names)


def test_a_run_of_before_boards_said_what_they_know_still_has_a_report(run_folder, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(run_folder, folder)
    results = json.loads((folder / "results.json").read_text())
    del results["knowledge"], results["uncertainty"]
    (folder / "results.json").write_text(json.dumps(results))
    assert not any("Of this board" in note for note in run_page(folder).notes)
    assert "Of this board" in (run_folder / "report.html").read_text()


def test_reasons_are_counted_and_change_nothing(run_folder):
    drawn = {policy["policy"]: policy for policy in read_series(run_folder)["policies"]}
    ours = drawn["voltana"]
    decided = sum(ours["statuses"]["decode"].values())
    assert sum(ours["reasons"]["decode"].values()) >= decided > 50
    assert set(drawn["static-max"]["reasons"]["decode"]) == {"fixed clock"}
    scenario = load_scenario(run_folder / "scenario.toml", {})
    plain, recorded = (compare(scenario, record_timelines=kept) for kept in (False, True))
    for one, other in zip(plain.runs, recorded.runs, strict=True):
        assert one.result.energy_j == other.result.energy_j
        assert not one.reasons
        assert other.reasons


def test_tokens_in_the_cache_are_those_of_requests_that_decode():
    record = (
        compare(load_scenario(None, {"policies": ["static-max"], "workload": {"duration_s": 4.0}}))
        .runs[0]
        .record
    )
    at_s = np.linspace(0, record.end_s, 40)
    wanted = []
    for now_s in at_s:
        alive = (record.first_token_s <= now_s) & (now_s < record.completed_s)
        grown = (now_s - record.first_token_s[alive]) / (
            record.completed_s[alive] - record.first_token_s[alive]
        )
        wanted.append(np.sum(record.prompt_tokens[alive] + grown * record.output_tokens[alive]))
    assert kv_tokens(record, at_s) == pytest.approx(np.array(wanted), abs=1e-3)
    assert max(wanted) > 1000


def test_a_sweep_s_report_has_lines_a_front_and_u_curves(tmp_path):
    text = page_of_sweep(tmp_path / "s", rate=[3, 4, 5], seed=[1, 2], itl_ms=[50, 65]).read_text()
    seen = Seen(text)
    assert len(text.encode()) < MOST_BYTES
    assert seen.outside == []
    assert "Energy saved by request rate" in seen.headings
    assert "Saving against attainment" in seen.headings
    assert "Energy over the clock" in seen.headings
    assert "<option>ITL threshold 50 ms</option>" in text
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])
    assert any(trace.get("error_y", {}).get("visible") for c in charts.values()
               for trace in c["traces"])  # fmt: skip


def test_every_field_of_a_scenario_is_called_something_in_words():
    named = [name for name in scenario_fields() if name != "policies"]
    assert set(named) == set(FIELDS)
    assert not any("_" in words for words, _ in FIELDS.values())
    assert labelled("workload.rate_rps") == "request rate (requests/s)"
    assert with_value("slo.itl_ms", 50.0) == "ITL threshold 50 ms"
    assert labelled("a.field_of_later") == "a.field_of_later"


def test_text_of_a_user_cannot_become_markup(tmp_path):
    folder = sweep(tmp_path, policies=("static-max",))
    page = sweep_page(folder, {"</script><script>alert(1)</script>": 1.0})
    text = render(page)
    assert "<script>alert(1)" not in text
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_what_is_no_report_is_said(tmp_path):
    again = rf"voltana simulate \S+scenario\.toml --out {re.escape(str(tmp_path))}\."
    with pytest.raises(ConfigError, match=rf"series\.json' cannot be read.*{again}"):
        run_page(tmp_path)
    (tmp_path / "series.json").write_text('{"form": 0}')
    with pytest.raises(ConfigError, match="is of another version of voltana"):
        run_page(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        sweep_page(tmp_path, {})


def test_a_path_without_a_run_or_a_sweep_is_said_so(tmp_path):
    for path, said in (
        (tmp_path / "none", "is not there"),
        (tmp_path, "holds neither a run nor a sweep"),
        (Path("/dev/null"), "holds neither a run nor a sweep"),
    ):
        with pytest.raises(ConfigError, match=f"{said}.* 'voltana simulate --out' or of"):
            report(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", "{}"),
        ("results.json", "[]"),
        ("results.json", "null"),
        ("results.json", '{"scenario": 5, "results": "x"}'),
        ("results.json", '{"scenario": {}, "results": [{}]}'),
        ("results.json", "{"),
        ("series.json", '{"form": 1}'),
        ("series.json", '{"form": 1, "policies": [{"policy": "a"}], "tariffs": {}}'),
        ("series.json", '{"form": 1, "policies": []}'),
    ],
)
def test_a_damaged_run_is_one_line_that_says_how_to_make_it_anew(run_folder, tmp_path, name, text):
    folder = tmp_path / "a run"
    shutil.copytree(run_folder, folder)
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        run_page(folder)
    again = f"voltana simulate '{folder}/scenario.toml' --out '{folder}'"
    assert f"Run it again: {again}." in str(raised.value)


def test_a_run_that_is_still_going_is_told_and_not_taken_for_a_sweep(tmp_path, capsys):
    (tmp_path / "partial.csv").write_text("policy,from_s\n")
    with pytest.raises(ConfigError, match=r"has not ended: partial\.csv holds what it has found"):
        app(["report", str(tmp_path)], standalone_mode=False)


def test_a_report_says_that_a_newer_run_into_its_folder_has_not_ended(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "again")
    assert "partial.csv is newer" not in render(run_page(folder))
    before_s = (folder / "series.json").stat().st_mtime
    os.utime(folder / "partial.csv", (before_s + 1, before_s + 1))
    assert "partial.csv is newer than these figures" in render(run_page(folder))


def test_a_sweep_that_is_still_going_is_told_with_what_it_has(tmp_path):
    folder = sweep(tmp_path / "sweep")
    plan = json.loads((folder / PLAN).read_text())
    (folder / PLAN).write_text(json.dumps({**plan, "runs": [*plan["runs"], "one-more"]}))
    assert "1 scenarios that the folder asks for are not in" in render(sweep_page(folder, {}))
    (folder / RESULTS).unlink()
    with pytest.raises(ConfigError, match=r"has not ended: 4 of 5 scenarios are kept\. Wait"):
        sweep_page(folder, {})
    (folder / PLAN).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as Parquet: no such file"):
        sweep_page(folder, {})


def test_a_damaged_sweep_is_one_line_and_a_truncated_one_too(tmp_path):
    path = sweep(tmp_path, policies=("static-max",)) / RESULTS
    whole, table = path.read_bytes(), parquet.read_table(path)
    for damaged in (whole[:3000], whole[:-9], whole[4000:], b"", whole[:200] + whole[260:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"cannot be read as Parquet|is not of a sweep"):
            sweep_page(tmp_path, {})
    parquet.write_table(table.drop_columns(["energy_j"]), path)
    with pytest.raises(ConfigError, match="has no column 'energy_j'"):
        sweep_page(tmp_path, {})
    place = table.column_names.index("energy_j")
    empty = pa.nulls(len(table), pa.float64())
    parquet.write_table(table.set_column(place, table.field(place), empty), path)
    with pytest.raises(ConfigError, match="does not hold what a sweep writes"):
        sweep_page(tmp_path, {})


def test_a_sweep_s_report_says_what_of_its_boards_is_inferred(tmp_path):
    grid = {"hardware": ["a100-sxm4-80gb", "h100-sxm"], "duration": [1.0]}
    notes = sweep_page(sweep(tmp_path, policies=("static-max",), **grid), {}).notes
    assert sum(", inferred: " in note for note in notes) == 2
    assert any(note.startswith("h100-sxm, inferred: power below") for note in notes)


def test_a_long_run_is_as_small_and_as_quick(tmp_path):
    folder = simulate(tmp_path, "--policy", "static-max")
    series = read_series(folder)
    grown = json.dumps(series).replace('"static-max"', '"another"')
    assert len(grown) < 60_000  # whatever the duration: 240 points a series
    before_s = time.process_time()
    render(run_page(folder))
    assert time.process_time() - before_s < 5


def test_a_power_budget_stands_above_the_power_in_both_figures():
    cluster = {
        "t_s": [0.0, 1.0],
        "waiting": [0, 1],
        "kv_tokens": [1, 2],
        "power_t_s": [0.0, 1.0],
        "power_w": [300.0, 280.0],
    }
    instance = {"instance": "decode-0", "role": "decode", "t_s": [0.0], "clock_mhz": [1410.0],
                "batch": [1], "latency_ms": [20.0]}  # fmt: skip
    free = [{"policy": "a", "instances": [instance], "cluster": cluster}]
    within = [{**free[0], "cluster": {**cluster, "budget_w": [400.0, 320.0]}}]
    for drawn, lines in ((free, 0), (within, 1)):
        (timeline,) = timelines(drawn, {"itl_ms": 65.0})
        for figure in (power(drawn, Palette()), timeline):
            named = [line for line in figure.traces if line["name"] == "power budget"]
            assert len(named) == lines
            assert all(line["y"] == [400.0, 320.0] for line in named)
        assert timeline.layout["grid"]["rows"] == 5 + lines


def test_a_colocated_run_s_report_shows_its_role_and_no_other(tmp_path):
    simulate(tmp_path, "--prefill", "0", "--decode", "0", "--colocated", "2",
             "--policy", "static-max")  # fmt: skip
    page = run_page(tmp_path)
    (energy,) = [figure for figure in page.figures if figure.title == "Energy"]
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [trace["name"] for trace in energy.traces] == ["colocated"]
    assert energy.traces[0]["x"] == [round(result["energy_j"] / 1e3, 3)]
    assert page.lead.startswith("2 colocated instances")


def test_fixed_clocks_of_colocated_instances_make_a_curve(tmp_path):
    sweep(tmp_path, prefill=[0], decode=[0], colocated=[2])
    (curve,) = [f for f in sweep_page(tmp_path, {}).figures if f.title == "Energy over the clock"]
    assert [trace["name"] for trace in curve.traces] == ["colocated"]
    assert all(energy_kj > 0 for energy_kj in curve.traces[0]["y"])


def test_where_nothing_keeps_enough_no_tile_says_so(tmp_path):
    simulate(tmp_path, "--rate", "400", "--policy", "static-max,static-low")
    said, _, policy = run_page(tmp_path).tiles[0]
    assert (said, policy) == ("Nothing kept 95 %: saved by what kept most", "static-max")


def test_the_power_over_time_has_the_mean_of_its_run(run_folder):
    series = read_series(run_folder)
    for policy in series["policies"]:
        drawn_w = policy["cluster"]["power_w"]
        assert np.mean(drawn_w) == pytest.approx(policy["units"]["avg_total_gpu_power_w"], rel=1e-3)


def test_yes_and_no_are_chosen_between_and_no_places_on_an_axis(tmp_path):
    sweep(tmp_path, rate=[3, 5], prefix_cache=[True, False])
    page = sweep_page(tmp_path, {})
    lines = [figure for figure in page.figures if figure.title.startswith("Energy by")]
    assert len({figure.option for figure in lines}) == 2
    sweep(tmp_path / "alone", prefix_cache=[True, False])
    titles = [figure.title for figure in sweep_page(tmp_path / "alone", {}).figures]
    assert not any(title.startswith("Energy by") for title in titles)


def test_values_that_differ_by_little_are_not_averaged(tmp_path):
    """Six digits of each are the same, and they are no seeds of one another."""
    near_ms = [65.00001, 65.00002]
    sweep(tmp_path, rate=[3, 5, 7], itl_ms=near_ms)
    lines = [f for f in sweep_page(tmp_path, {}).figures if f.title.startswith("Energy by")]
    assert [f.option for f in lines] == [f"ITL threshold {ms!r} ms" for ms in near_ms]
    assert {f.text for f in lines} == {"One seed."}


def test_scenarios_that_compare_other_policies_are_told_from_seeds(tmp_path):
    """Energies go up to the last completion of the slowest, so that a policy has two of them."""
    rows = [{"rate": 3, "policy": ["static-max"]}, {"rate": 5, "policy": ["static-max"]},
            {"rate": 5, "policy": ["static-max", "static-low"]}]  # fmt: skip
    outcome = run_sweep(make_plan(SHORT, None, rows), tmp_path, Here())
    write_parquet(outcome.rows, tmp_path)
    figures = {figure.title: figure for figure in sweep_page(tmp_path, {}).figures}
    drawn = figures["Energy by request rate"]
    assert "scenarios that compare other policies" in drawn.text
    assert [row[3] == "-" for row in drawn.rows].count(False) == len(drawn.rows)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "power budget none"), (900.0, "power budget 900 W"), (1e-7, "power budget 1e-07 W")],
)
def test_a_value_reads_as_it_was_given(value, said):
    assert with_value("power_budget_w", value) == said


def test_yes_and_no_read_so():
    assert with_value("engine.transfer", False) == "KV transfer takes time no"
