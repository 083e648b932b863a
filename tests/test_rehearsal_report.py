"""What a rehearsal works out of its records, and how it shows that beside the simulation."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from voltana.evaluation.compare import compare
from voltana.evaluation.report.page import render
from voltana.evaluation.scenario import load_scenario
from voltana.rehearsal.faults import Fault
from voltana.rehearsal.load import Replayed, Told
from voltana.rehearsal.measured import Evidence, Lateness, measure, read_records
from voltana.rehearsal.meter import Reading, read_log
from voltana.rehearsal.page import page_of
from voltana.rehearsal.rehearse import Rehearsal
from voltana.rehearsal.report import print_report, to_json
from voltana.rehearsal.spread import Spread, spread_of
from voltana.rehearsal.verdict import verdict_on

FACTOR = 0.5
START_S = 100.0
DEVICES = {"prefill-0": (0,), "decode-0": (1,)}
FILE = {
    "policies": ["static-low"],
    "cluster": {"prefill": 1, "decode": 1},
    "workload": {"rate_rps": 2.0, "duration_s": 4.0},
}


@pytest.fixture(scope="module")
def comparison():
    return compare(load_scenario(None, FILE), record_timelines=True)


def evidence_of(comparison, fastest_until_s=0.0, **changes):
    """As simulated, but for the boards: 100 W and 200 W, at 1410 MHz for a while, then 1005."""
    run = comparison.runs[0].record
    told = tuple(
        Told(arrival_s=a, sent_s=a + 0.001, first_s=f, last_s=c, tokens=int(n))
        for a, f, c, n in zip(
            run.arrival_s, run.first_token_s, run.completed_s, run.output_tokens, strict=True
        )
    )
    readings = []
    for wall_s in np.arange(0.0, 40.0, 0.1):
        own_s = wall_s * FACTOR
        mhz = 1410.0 if own_s < fastest_until_s else 1005.0
        readings.append(
            Reading(START_S + wall_s, (mhz, 1005.0), (100.0, 200.0), (100 * own_s, 200 * own_s))
        )
    rows = {
        one.instance: [
            [START_S * FACTOR + s, latency, mhz, int(batch), int(kv), int(queued), 1.0]
            for s, latency, mhz, batch, kv, queued in zip(
                one.timeline.start_s, one.timeline.latency_s, one.timeline.clock_mhz,
                one.timeline.batch, one.timeline.kv_tokens, one.timeline.queued, strict=True,
            )
        ]
        for one in run.instances
    }  # fmt: skip
    made = {
        "replayed": Replayed(trace=comparison.scenario.trace, told=told),
        "readings": readings,
        "rows": rows,
        "lateness": Lateness(happened=1000, late=(3, 0, 0, 0, 0, 0, 0, 0), latest_s=0.006),
        "set_calls": [],
        "agents": [{"decisions": {"certified": 3, "saturated": 0, "void": 1}}, {"decisions": None}],
        "start_s": START_S,
        "factor": FACTOR,
        "devices": DEVICES,
        "fastest_mhz": 1410.0,
        "driver_s": 0.034,
    }
    return Evidence(**(made | changes))


def measured_of(comparison, evidence, horizon_s=10.0, **more):
    slo = comparison.scenario.cluster.slo
    return measure("static-low", evidence, slo, horizon_s=horizon_s, **more)


def test_energy_counts_in_the_rehearsals_seconds(comparison):
    made = measured_of(comparison, evidence_of(comparison), reference_energy_j=4000.0)
    assert made.energy_j == pytest.approx(3000.0)
    assert made.prefill_energy_j == pytest.approx(1000.0)
    assert made.decode_energy_j == pytest.approx(2000.0)
    assert made.energy_saved_vs_static_max == pytest.approx(0.25)
    assert made.clocks_mhz == {"prefill-0": 1005.0, "decode-0": 1005.0}
    assert made.certified_share == 0.75
    assert made.sent_late_s == pytest.approx(0.001)


def test_attainments_are_those_of_the_same_times_in_the_simulation(comparison):
    made, simulated = measured_of(comparison, evidence_of(comparison)), comparison.runs[0].result
    assert made.ttft_attainment == simulated.ttft_attainment
    assert made.itl_attainment == simulated.itl_attainment
    assert made.ttft_p50_s == pytest.approx(simulated.ttft_p50_s)
    assert made.requests_completed == simulated.requests_completed


def test_a_lost_answer_keeps_nothing(comparison):
    evidence = evidence_of(comparison)
    lost = evidence.replayed.told[0]
    lost.first_s = lost.last_s = math.inf
    lost.error = "TimeoutError: "
    made = measured_of(comparison, evidence)
    offered = made.requests_offered
    assert made.requests_completed == offered - 1
    assert made.ttft_attainment == pytest.approx((offered - 1) / offered)
    assert made.errors == {"TimeoutError: ": 1}


def test_default_clocks_count_for_as_long_as_they_last(comparison):
    made = measured_of(comparison, evidence_of(comparison, fastest_until_s=3.0))
    assert made.default_clock_s == pytest.approx(3.0, abs=0.06)
    assert made.prefill_clock_mhz > made.decode_clock_mhz == 1005.0


def test_lags_run_from_the_launch_and_idle_steps_have_none(comparison):
    rows = {"prefill-0": [], "decode-0": [[50.0 + i, 0.04, 1005.0, 1, 9, 0, 1.0] for i in range(9)]}
    calls = [
        (101.0, 1, 1005),  # the first: nothing was held before it
        (102.02, 1, 900),  # 10 ms after a launch at 51.0
        (104.04, 1, 900),  # renewed
        (106.04, 1, 700),  # 20 ms after a launch
        (107.0, 1, 600),  # half a second after it: an idle step
        (108.01, 0, 500),  # a board without iterations
    ]
    made = measured_of(comparison, evidence_of(comparison, rows=rows, set_calls=calls))
    assert made.lag_p50_s == pytest.approx(0.010 + 0.034)
    assert made.lag_p99_s == pytest.approx(0.020 + 0.034)
    assert made.lag_wall_p99_s == pytest.approx(0.040)


def test_lateness_counts_within_the_trace_alone(tmp_path):
    said = [(1.0, 10, 9), (2.0, 20, 9), (3.0, 30, 10), (9.0, 99, 50)]
    lines = [
        json.dumps({"at_s": at_s, "happened": n, "late": [late] + [0] * 7, "latest_s": 0.01,
                    "rows": [[at_s] * 7]}) for at_s, n, late in said
    ]  # fmt: skip
    (tmp_path / "decode-0.jsonl").write_text("\n".join(lines) + '\n{"at_s": 9.5, "happ')
    rows, lateness = read_records(tmp_path, ["decode-0"], 1.5, 3.5)
    assert len(rows["decode-0"]) == 4
    assert (lateness.happened, lateness.late[0]) == (10, 1)


def test_a_meters_log_may_end_in_the_middle(tmp_path):
    path = tmp_path / "meter.jsonl"
    path.write_text(json.dumps(Reading(1.0, (1.0,), (2.0,), (3.0,))) + "\n[2.0, [1.")
    assert read_log(path) == [Reading(1.0, (1.0,), (2.0,), (3.0,))]


@pytest.fixture(scope="module")
def rehearsal(comparison):
    evidence = evidence_of(comparison)
    faulty = measured_of(comparison, evidence_of(comparison, fastest_until_s=2.0))
    return Rehearsal(
        comparison=comparison,
        spread={"static-low": Spread(saved=0.0, ttft=0.0, itl=0.0)},
        measured={"static-low": measured_of(comparison, evidence)},
        faulty={str(Fault(kind="agent", at_s=2.0)): {"static-low": faulty}},
        evidence={"static-low": evidence},
        factor=FACTOR,
    )


def test_the_table_shows_both_and_what_the_fault_cost(rehearsal):
    told = io.StringIO()
    print_report(rehearsal, Console(file=told, width=120))
    text = " ".join(told.getvalue().split())
    for part in ("rehearsed", "simulated", "3.00 kJ", "0.30% over 5 ms late", "With agent@2:"):
        assert part in text
    assert "default clocks for +2.0 board-seconds, 0 requests lost" in text


def test_the_json_holds_both(rehearsal):
    made = json.loads(to_json(rehearsal))
    one = made["policies"]["static-low"]
    assert made["factor"] == FACTOR
    assert set(one["with_faults"]) == {"agent@2"}
    assert one["with_faults"]["agent@2"]["default_clock_s"] == pytest.approx(2.0, abs=0.06)
    assert one["rehearsed"]["energy_j"] == pytest.approx(3000.0)
    assert one["rehearsed"]["energy_saved_vs_static_max"] is None
    assert one["simulated"]["energy_j"] > 0
    assert one["lateness"]["share"] == pytest.approx(0.003)


def test_the_page_shows_both_timelines_of_every_instance(rehearsal):
    page = page_of(rehearsal)
    lines = [figure for figure in page.figures if figure.choice == "Timelines"]
    assert [figure.option for figure in lines] == ["static-low: decode-0", "static-low: prefill-0"]
    for figure in lines:
        names = [trace["name"] for trace in figure.traces]
        assert names == ["rehearsed"] * 3 + ["simulated"] * 3
        assert all(any(y is not None for y in trace["y"]) for trace in figure.traces)
        clock, *_ = (trace for trace in figure.traces if trace["name"] == "rehearsed")
        assert {y for y in clock["y"] if y is not None} == {1005.0}
    here, there = (lines[0].traces[place]["y"] for place in (1, 4))
    assert here == there  # the batches were copied from the simulation


def test_the_page_holds_the_verdict_the_lag_and_what_the_fault_cost(rehearsal):
    made = render(page_of(rehearsal))
    tables = {title: rows for title, _, rows in page_of(rehearsal).tables}
    assert "rehearsed and simulated" in made
    assert [row[1] for row in tables["Verdict"]] == [
        "saved", "TTFT kept", "ITL kept", "latest decision",
    ]  # fmt: skip
    assert tables["What faults cost"][0][:2] == ["agent@2", "static-low"]
    assert tables["What faults cost"][0][-2:] == ["+2.0 board-seconds", "0"]
    assert "0.30% over 5 ms late" in made


def result_like(comparison, **changes):
    return dataclasses.replace(comparison.runs[0].result, **changes)


@pytest.mark.parametrize(
    ("saved", "ttft", "spread", "broken"),
    [
        (0.25 + 0.019, 1.0, 0.0, set()),
        (0.25 + 0.021, 1.0, 0.0, {"saved"}),
        (0.25 - 0.021, 1.0, 0.0, {"saved"}),
        (0.25, 0.989, 0.0, {"TTFT kept"}),
        (0.25, 0.989, 0.006, set()),
    ],
)
def test_the_verdict_allows_two_points_saved_and_the_simulators_own_spread(
    comparison, saved, ttft, spread, broken
):
    measured = measured_of(comparison, evidence_of(comparison), reference_energy_j=4000.0)
    simulated = result_like(
        comparison, energy_saved_vs_static_max=saved, ttft_attainment=measured.ttft_attainment
    )
    measured = dataclasses.replace(
        measured, ttft_attainment=ttft * measured.ttft_attainment, decision_latest_s=0.0199
    )
    spread = Spread(saved=0.0, ttft=spread, itl=0.0)
    checks = verdict_on("static-low", measured, simulated, spread)
    assert {check.what for check in checks if not check.kept} == broken
    late = dataclasses.replace(measured, decision_latest_s=0.0201)
    checks = verdict_on("static-low", late, simulated, spread)
    assert {check.what for check in checks if not check.kept} == broken | {"latest decision"}


def test_the_verdict_says_which_figure_differs(rehearsal):
    told = io.StringIO()
    print_report(rehearsal, Console(file=told, width=120))
    text = told.getvalue()
    assert "As simulated: all 4 figures" in text
    measured = dataclasses.replace(rehearsal.measured["static-low"], itl_attainment=0.5)
    other = dataclasses.replace(rehearsal, measured={"static-low": measured})
    told = io.StringIO()
    print_report(other, Console(file=told, width=120))
    assert "Not as simulated: 1 of 4 figures." in told.getvalue()
    assert "static-low: ITL kept 50.0 %, simulated 100.0 %" in told.getvalue()
    assert json.loads(to_json(rehearsal))["as_simulated"] is True
    assert json.loads(to_json(other))["as_simulated"] is False


def test_the_spread_is_that_of_other_seeds_on_the_same_trace(comparison):
    """static-low saves the same whatever the seed, but for noise; the reference itself nothing."""
    found = spread_of(comparison.scenario, seeds=3)
    assert set(found) == {"static-low"}
    assert 0.0 < found["static-low"].saved < 0.01
