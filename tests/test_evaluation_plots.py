"""Plots are written, show what was measured, and stay small however long the run."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import instance, record
from voltana.config import parse_scenario
from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.errors import ConfigError
from voltana.evaluation.binning import binned
from voltana.evaluation.compare import Comparison, PolicyRun
from voltana.evaluation.metrics import measure
from voltana.evaluation.plots import comparison_figure, write_plots
from voltana.evaluation.style import looks
from voltana.evaluation.timeline import PANELS, timeline_figure
from voltana.plant.cluster import ClusterSpec
from voltana.plant.hardware import load_hardware
from voltana.plant.model import load_model
from voltana.slo import Slo

SLO = Slo(ttft_s=0.5, itl_s=0.1)
CLUSTER = ClusterSpec(
    hardware=load_hardware("a100-sxm4-80gb"), model=load_model("llama-3.1-8b"), slo=SLO
)


def run(name: str, energy_j: float = 700.0, *, rows: int = 50, decode: int = 1) -> PolicyRun:
    instances = (
        instance("prefill-0", 300.0, rows=rows),
        *(instance(f"decode-{i}", energy_j, rows=rows) for i in range(decode)),
    )
    made = record(instances=instances)
    return PolicyRun(
        record=made, result=measure(name, made, SLO, reference_energy_j=1000.0, wall_s=1.0)
    )


def no_room(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def comparison(*runs: PolicyRun) -> Comparison:
    scenario = SimpleNamespace(
        file=parse_scenario({}), cluster=CLUSTER, trace=range(4), budget=None
    )
    return Comparison(scenario=scenario, runs=runs, reference=runs[0])


def test_one_file_for_all_and_one_for_each_policy(tmp_path) -> None:
    made = comparison(run("static-max"), run("mine:make", 400.0))
    written = write_plots(made, tmp_path)
    assert [path.name for path in written] == [
        "comparison.png",
        "timeline-static-max.png",
        "timeline-mine-make.png",
    ]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_a_full_disk_names_the_plot_and_keeps_the_one_before(tmp_path, monkeypatch):
    made = comparison(run("static-max"))
    before = write_plots(made, tmp_path)[0].read_bytes()
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigError, match=r"comparison\.png' cannot be written: No space left"):
        write_plots(made, tmp_path)
    assert (tmp_path / "comparison.png").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_the_comparison_shows_energy_attainment_and_both_slos() -> None:
    figure = comparison_figure(comparison(run("static-max"), run("mine", 400.0)))
    energy, kept, ttft, itl = figure.axes
    texts = " ".join(text.get_text() for text in energy.texts)
    assert "saved 30.0%" in texts
    assert "50.0%" in " ".join(text.get_text() for text in kept.texts)
    for axes, threshold_ms in ((ttft, 500.0), (itl, 100.0)):
        assert any(line.get_xdata()[0] == pytest.approx(threshold_ms) for line in axes.lines)
    assert all("(ms)" in axes.get_xlabel() for axes in (ttft, itl))
    assert "(kJ)" in energy.get_xlabel()


def test_more_policies_than_colours_can_still_be_told_apart() -> None:
    figure = comparison_figure(comparison(*(run(f"policy-{i}") for i in range(10))))
    styles = [(line.get_color(), line.get_linestyle()) for line in figure.axes[2].lines[:10]]
    assert len(set(styles)) == 10


def test_a_policy_has_one_colour_whatever_it_is_compared_with() -> None:
    alone, among = looks(["voltana"]), looks(["mine:make", "pid", "voltana", "static-max"])
    assert alone["voltana"] == among["voltana"]
    assert len(set(among.values())) == 4
    figure = comparison_figure(comparison(run("pid"), run("voltana", 400.0)))
    drawn = {line.get_label(): line.get_color() for line in figure.axes[2].lines}
    assert (drawn["pid"], drawn["voltana"]) == (among["pid"].colour, among["voltana"].colour)
    timeline = timeline_figure(run("voltana"), SLO)
    assert {line.get_color() for line in timeline.axes[0].lines} == {alone["voltana"].colour}


def test_titles_name_profiles_and_not_their_files() -> None:
    made = comparison(run("static-max"))
    file = {"cluster": {"hardware": "/somewhere/board.toml", "model": "/elsewhere/config.json"}}
    made.scenario.file = parse_scenario(file)
    title = comparison_figure(made).get_suptitle()
    assert title.startswith("llama-3.1-8b on a100-sxm4-80gb, 2P2D")


def test_clocks_are_drawn_over_the_range_of_the_board() -> None:
    low, high = CLUSTER.hardware.clocks_mhz[0], CLUSTER.hardware.clocks_mhz[-1]
    limits = [
        timeline_figure(run(name), SLO, clocks_mhz=(low, high)).axes[0].get_ylim()
        for name in ("static-max", "voltana")
    ]
    assert limits[0] == limits[1]
    assert limits[0][0] < low < high < limits[0][1]


def test_a_timeline_has_a_column_an_instance_up_to_a_limit() -> None:
    assert len(timeline_figure(run("mine", decode=2), SLO).axes) == len(PANELS) * 3
    assert len(timeline_figure(run("mine", decode=9), SLO).axes) == len(PANELS) * 5


def test_a_power_budget_is_drawn_above_the_power_of_all_boards() -> None:
    made = run("mine")
    budget = BudgetSchedule(from_s=(0.0, 1.0), budget_w=(900.0, 700.0))
    for power_w in ([800.0, 650.0, 640.0], []):
        made = replace(made, record=replace(made.record, power_w=np.array(power_w)))
        figure = timeline_figure(made, SLO, budget=budget)
        below = figure.axes[-1]
        assert len(figure.axes) == len(timeline_figure(made, SLO).axes) + 1
        assert "power of all boards" in below.get_title(loc="left")
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["power budget"]


def test_a_timeline_needs_recorded_rows() -> None:
    with pytest.raises(ValueError, match="record_timelines=True"):
        timeline_figure(run("mine", rows=0), SLO)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-5, 5)), max_size=60), st.integers(1, 20))
def test_bins_hold_what_fell_into_them(points, bins) -> None:
    points = sorted(points)
    times = np.array([t for t, _ in points])
    values = np.array([v for _, v in points])
    middle, low, mean, high = binned(times, values, 10.0, bins)
    assert len(middle) == bins
    edges = np.linspace(0.0, 10.0, bins + 1)
    for i in range(bins):
        last = i == bins - 1
        inside = values[(times >= edges[i]) & ((times < edges[i + 1]) | last)]
        if len(inside):
            assert (low[i], high[i]) == (inside.min(), inside.max())
            assert mean[i] == pytest.approx(inside.mean())
        else:
            assert np.isnan([low[i], mean[i], high[i]]).all()


def test_a_run_without_gaps_between_tokens_can_still_be_drawn() -> None:
    made = record(gap_s=(), gap_tokens=(), output_tokens=(1, 1, 1, 1))
    result = measure("mine", made, SLO, reference_energy_j=1000.0, wall_s=1.0)
    figure = comparison_figure(comparison(PolicyRun(record=made, result=result)))
    labels = [text.get_text() for text in figure.axes[1].texts]
    assert labels == ["50.0%"]
