"""Comparisons: one trace, one end of the energy integral, one reference."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import (
    HEADERS,
    markdown_report,
    markdown_table,
    print_table,
    rows,
    to_json,
)
from voltana.evaluation.scenario import ARRIVALS, load_scenario

REQUIRED = {
    "policy", "energy_j", "prefill_energy_j", "decode_energy_j", "energy_saved_vs_static_max",
    "ttft_attainment", "itl_attainment", "itl_token_attainment", "ttft_p50_s", "ttft_p99_s",
    "itl_p50_s", "itl_p99_s", "requests_offered", "requests_completed", "clock_changes",
    "decide_p50_us", "decide_p99_us", "simulated_s", "wall_s",
}  # fmt: skip
TIMED = {"wall_s", "decide_p50_us", "decide_p99_us"}


def scenario(*policies: str, **arrivals):
    return load_scenario(
        None,
        {
            "policies": list(policies),
            "cluster": {"prefill": 1, "decode": 1},
            ARRIVALS: {"rate_rps": 10.0, "duration_s": 4.0, **arrivals},
        },
    )


@pytest.fixture(scope="module")
def comparison():
    return compare(scenario("static-max", "static-low"), record_timelines=True)


def test_all_policies_pay_up_to_the_last_completion_of_the_slowest(comparison) -> None:
    ends = {run.record.end_s for run in comparison.runs}
    assert len(ends) == 1
    last = max(run.record.completed_s.max() for run in comparison.runs)
    assert ends.pop() == pytest.approx(last)


def test_the_fast_policy_idles_to_the_end_and_the_slow_one_saves(comparison) -> None:
    fast, slow = comparison.runs
    assert fast.result.energy_saved_vs_static_max == 0.0
    assert slow.result.energy_saved_vs_static_max > 0.05
    assert slow.record.completed_s.max() > fast.record.completed_s.max()
    assert slow.result.itl_p50_s > fast.result.itl_p50_s
    for run in comparison.runs:
        assert run.result.requests_completed == run.result.requests_offered > 10


def test_the_reference_runs_even_if_nobody_asked_for_it(comparison) -> None:
    alone = compare(scenario("static-low"))
    assert [run.result.policy for run in alone.runs] == ["static-low"]
    assert alone.reference.result.policy == "static-max"
    assert "run as the reference" in markdown_table(alone)
    assert "run as the reference" not in markdown_table(comparison)
    together = comparison.runs[1].result
    assert alone.runs[0].result.energy_j == together.energy_j
    saved = alone.runs[0].result.energy_saved_vs_static_max
    assert saved == together.energy_saved_vs_static_max


def test_the_same_seed_gives_the_same_figures_and_another_one_does_not(comparison) -> None:
    def figures(made) -> list[dict[str, object]]:
        results = json.loads(to_json(made))["results"]
        return [{k: v for k, v in result.items() if k not in TIMED} for result in results]

    again = compare(scenario("static-max", "static-low"))
    assert figures(again) == figures(comparison)
    other = load_scenario(
        None, {"policies": ["static-max"], "seed": 9, ARRIVALS: {"duration_s": 2.0}}
    )
    assert len(other.trace) != len(scenario("static-max", duration_s=2.0).trace)


def test_progress_names_the_policy_and_ends_with_every_request() -> None:
    seen: dict[str, tuple[float, int]] = {}
    run = scenario("static-max")
    compare(run, progress=lambda policy, at_s, done: seen.update({policy: (at_s, done)}))
    assert seen["static-max"][1] == len(run.trace)
    assert seen["static-max"][0] > 1.0


def test_json_has_the_scenario_and_every_promised_figure(comparison) -> None:
    plain = json.loads(to_json(comparison))
    assert plain["scenario"]["cluster"]["hardware"] == "a100-sxm4-80gb"
    assert [result["policy"] for result in plain["results"]] == ["static-max", "static-low"]
    for result in plain["results"]:
        assert set(result) >= REQUIRED
        assert None not in (result[key] for key in REQUIRED)
        assert result["energy_j"] == pytest.approx(
            result["prefill_energy_j"] + result["decode_energy_j"]
        )
    assert plain["reference"] == {
        "policy": "static-max",
        "energy_j": plain["results"][0]["energy_j"],
    }


def test_the_tables_have_one_row_a_policy(comparison, tmp_path) -> None:
    cells = rows(comparison)
    assert [row[0] for row in cells] == ["static-max", "static-low"]
    assert all(len(row) == len(HEADERS) for row in cells)
    report = markdown_report(comparison, [tmp_path / "comparison.png"])
    assert "| static-low |" in report
    assert "![comparison](comparison.png)" in report


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_figure_is_cut_off_however_narrow_the_terminal(comparison, width) -> None:
    out = io.StringIO()
    print_table(comparison, Console(file=out, width=width))
    printed = out.getvalue().split()
    for row in rows(comparison):
        assert set(row) <= set(printed)
    if width >= 80:
        assert max(map(len, out.getvalue().splitlines())) <= width
