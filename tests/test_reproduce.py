"""The published findings: what is run, what is told, and the command end to end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.sweep_steps import ROOT
from voltana.cli.main import app
from voltana.errors import ConfigError, UnknownNameError
from voltana.evaluation.reproduce import NAMES, get_finding
from voltana.evaluation.reproduce.finding import Asked
from voltana.evaluation.reproduce.panels import ticks
from voltana.evaluation.reproduce.published import published_savings, read_points

FIGURES = ROOT.parent / "shared" / "data" / "published-figure"

PUBLISHED = "model,dataset,rps,policy,energy_j,ttft_attainment_pct,itl_attainment_pct\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_can_be_planned_whole_and_quick(name):
    found = get_finding(name)
    quick, whole = (found.plan(asked) for asked in (Asked(quick=True), Asked(seeds=(11, 12))))
    assert 0 < len(quick.points) < len(whole.points)
    assert len(whole.points) % 2 == 0


def test_a_finding_is_found_again_after_its_modules_were_imported():
    """A function of a module's name was hidden by it: the second call in a program failed."""
    assert get_finding("slo") is get_finding("slo")


def test_the_search_can_be_left_out_and_added_later():
    with_it, without = (get_finding("main-result").plan(Asked(search=s)) for s in (True, False))
    assert len(with_it.points) == 2 * len(without.points) == 102
    assert {point.key for point in without.points} < {point.key for point in with_it.points}
    searched = [point for point in with_it.points if "best-fixed" in point.file.policies]
    assert {point.file.policies for point in searched} == {("static-max", "best-fixed")}
    assert not any("best-fixed" in point.file.policies for point in without.points)


def test_the_main_result_runs_the_published_rates():
    plan = get_finding("main-result").plan(Asked(search=False))
    rates = {}
    for point in plan.points:
        file = point.file
        key = (file.cluster.model, file.workload.name)
        rates.setdefault(key, []).append(file.workload.rate_rps)
        assert file.workload.duration_s == 120
        assert (file.cluster.prefill, file.cluster.decode) == (2, 2)
        assert file.cluster.tensor_parallel == (2 if "qwen" in file.cluster.model else 1)
    assert rates == {
        ("ministral-3b", "lmsys"): list(range(80, 151, 10)),
        ("ministral-3b", "sharegpt"): list(range(80, 151, 10)),
        ("llama-3.1-8b", "lmsys"): [*range(75, 111, 5), 120, 130],
        ("llama-3.1-8b", "sharegpt"): list(range(50, 101, 5)),
        ("qwen3-32b", "lmsys"): list(range(40, 71, 5)),
        ("qwen3-32b", "sharegpt"): list(range(20, 51, 5)),
    }


@pytest.mark.data
@pytest.mark.skipif(not FIGURES.is_dir(), reason="no ../shared/data here")
def test_the_quoted_savings_are_those_of_the_published_figure():
    energy = {(p.model, p.workload, p.rate_rps, p.policy): p.figures["energy_j"]
              for p in read_points(FIGURES) if "energy_j" in p.figures}  # fmt: skip
    quoted = published_savings()
    assert len(quoted) == 28
    for (model, workload, rate_rps), saved in quoted.items():
        ours = energy[model, workload, rate_rps, "voltana-v0.1"]
        full = energy[model, workload, rate_rps, "static-max"]
        assert 1 - ours / full == pytest.approx(saved, abs=2.5e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,rps\nx,1\n", "row 1 has no known 'energy_j'"),
        ("", "it has no row below its header"),
        (PUBLISHED, "it has no row below its header"),
        (PUBLISHED + "m,d,5,f1410,1,2,3\nm\n", "row 2 is shorter than its header"),
        (PUBLISHED + "m,d,5,f999,1,2,3\n", "row 1 has no known 'f999'"),
        (PUBLISHED + "m,d,fast,f1410,1,2,3\n", "row 1: could not convert"),
        (PUBLISHED + "m,d,5,f1410,1e400,2,3\n", "row 1: '1e400' is no finite number"),
        (PUBLISHED + "m,d,nan,f1410,1,2,3\n", "row 1: 'nan' is no finite number"),
    ],
)
def test_points_that_are_none_are_refused_by_their_row(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConfigError, match=f"holds no points of the published figure: {said}"):
        read_points(tmp_path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no CSV .* or leave --published out"):
        read_points(tmp_path / "none")
    with pytest.raises(UnknownNameError, match=r"unknown finding 'level'\. Did you mean 'levels'"):
        get_finding("level")
    asked = CliRunner().invoke(app, ["reproduce", "main_result"])
    assert isinstance(asked.exception, UnknownNameError)
    assert str(asked.exception).startswith("unknown finding 'main_result'. Did you mean 'main-res")


def test_the_command_writes_figure_table_and_json_and_goes_on_where_it_was(voltana, tmp_path):
    command = ("reproduce", "u-curve", "--quick", "--workers", "1", "--out", tmp_path / "u")
    code, out, err = voltana(*command)
    assert (code, "2 run now" in err) == (0, True), err
    again = subprocess.run(
        [sys.executable, "-m", "voltana", *map(str, command)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert "0 run now" in again.stderr
    assert again.stdout == out
    assert "| a100-sxm4-80gb | decode, 128 requests |" in out
    made = json.loads((tmp_path / "u" / "finding.json").read_text())
    assert made["knowledge"]["a100-sxm4-80gb"]["inferred"]
    assert "a100-sxm4-80gb, inferred: " in out
    assert "a100-sxm4-80gb, inferred: " in (tmp_path / "u" / "table.md").read_text()
    assert made["finding"] == "u-curve"
    curve = made["a100-sxm4-80gb"]["decode, 128 requests"]
    lowest = min(curve, key=lambda point: point[1])
    assert curve[0][1] > lowest[1] < curve[-1][1]  # a U
    assert (tmp_path / "u" / "figure.png").stat().st_size > 20_000


def told_of(name, tmp_path, published=()):
    """A finding told of rows as if each scenario had saved a share of its own."""
    found = get_finding(name)
    plan = found.plan(Asked(quick=True))
    from voltana.evaluation.sweep.run import described_by

    rows = []
    for place, point in enumerate(plan.points):
        for index, policy in enumerate(point.file.policies):
            share = 0.01 * (place + index)
            rows.append(
                {
                    "run": point.key,
                    **described_by(point.file),
                    "policy": policy,
                    "chosen_keeps_slo": None,
                    "energy_j": 1e5 * (1 - share),
                    "prefill_energy_j": 4e4,
                    "decode_energy_j": 6e4,
                    "energy_saved_vs_static_max": share,
                    "ttft_attainment": 0.99,
                    "itl_attainment": None if place == 0 else 0.98,
                    "itl_token_attainment": 0.97,
                }
            )
    told = found.tell(rows, published)
    told.figure.savefig(tmp_path / f"{name}.png")
    json.dumps(told.data, allow_nan=False)
    return told


@pytest.mark.parametrize("name", [name for name in NAMES if name != "u-curve"])
def test_every_finding_tells_a_table_and_draws(name, tmp_path):
    told = told_of(name, tmp_path)
    header, rule, first = told.markdown.splitlines()[:3]
    assert header.count("|") == rule.count("|") == first.count("|")
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_no_legend_covers_what_is_drawn_and_targets_are_named(name, tmp_path):
    figure = told_of(name, tmp_path).figure
    figure.canvas.draw()
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    assert legends
    boxes = [legend.get_window_extent() for legend in legends]
    assert not any(box.overlaps(axes.bbox) for box in boxes for axes in figure.axes)
    named = {text.get_text() for legend in legends for text in legend.get_texts()}
    if "main" in name or name in ("levels", "windows", "slo"):
        assert {"TTFT within SLO: target 95 %", "ITL within SLO: target 99 %"} <= named


def test_an_axis_is_labelled_at_its_points():
    assert ticks([70.0, 50.0, 70.0]) == [50.0, 70.0]
    assert ticks(range(50, 101, 5)) == [50, 60, 70, 80, 90, 100]


def test_published_savings_stand_beside_ours(tmp_path):
    told = told_of("main-result", tmp_path)
    line = next(t for t in told.markdown.splitlines() if "| llama-3.1-8b | lmsys | 75 |" in t)
    assert line.split("|")[4].strip() == "36.2"
    assert "| ministral-3b | lmsys | 80 | - |" in told.markdown


def test_published_points_are_read_by_our_names(tmp_path):
    with (tmp_path / "p.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "dataset", "rps", "policy", "energy_j", "ttft_attainment_pct",
                       "itl_attainment_pct"])  # fmt: skip
        rows.writerow(["Llama-3.1-8B", "LMSYS", 75, "voltana", 105300.0, 97.7, ""])
    (point,) = read_points(tmp_path)
    assert (point.model, point.workload, point.policy) == ("llama-3.1-8b", "lmsys", "voltana-v0.1")
    assert point.figures == {"energy_j": 105300.0, "ttft_attainment": pytest.approx(0.977)}
