"""Plots are written, show what was measured, and stay small however long the run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import instance, record
from voltana.config import parse_scenario
from voltana.evaluation.compare import Comparison, PolicyRun
from voltana.evaluation.metrics import measure
from voltana.evaluation.plots import comparison_figure, write_plots
from voltana.evaluation.timeline import binned, timeline_figure
from voltana.slo import Slo

SLO = Slo(ttft_s=0.5, itl_s=0.1)


def run(name: str, energy_j: float = 700.0, *, rows: int = 50, decode: int = 1) -> PolicyRun:
    instances = (
        instance("prefill-0", 300.0, rows=rows),
        *(instance(f"decode-{i}", energy_j, rows=rows) for i in range(decode)),
    )
    made = record(instances=instances)
    return PolicyRun(
        record=made, result=measure(name, made, SLO, reference_energy_j=1000.0, wall_s=1.0)
    )


def comparison(*runs: PolicyRun) -> Comparison:
    scenario = SimpleNamespace(
        file=parse_scenario({}), cluster=SimpleNamespace(slo=SLO), trace=range(4)
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


def test_a_timeline_has_a_column_an_instance_up_to_a_limit() -> None:
    assert len(timeline_figure(run("mine", decode=2), SLO).axes) == 3 * 3
    assert len(timeline_figure(run("mine", decode=9), SLO).axes) == 3 * 5


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
