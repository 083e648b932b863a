"""The verdict as a page: what was measured beside what was simulated, and both timelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.evaluation.binning import binned
from voltana.evaluation.report.figures import INK, Figure, Palette, axis, percent, shown
from voltana.evaluation.report.page import Page
from voltana.evaluation.report.series import BINS, SHOWN_INSTANCES, rounded
from voltana.rehearsal.report import (
    all_checks,
    check_cells,
    cost_of_fault,
    figure_rows,
    lag_cells,
    lateness_text,
)
from voltana.rehearsal.run import LEAD_IN_S
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.plant.record import InstanceRecord
    from voltana.rehearsal.measured import Evidence
    from voltana.rehearsal.rehearse import Rehearsal
    from voltana.values import FloatArray

    Table = tuple[str, list[str], list[list[str]]]

BOTH = (("rehearsed", "c0", "solid"), ("simulated", INK, "dot"))
"""What was measured and what was simulated: name, colour and dash of their lines."""

_PANELS = ("clock, MHz", "batch", "power, W")
NOTES = (
    "Rehearsed: production's own processes (agents, daemon, router, launch) in real time, against "
    "virtual engines and a fake driver that behave like the simulated plant; measured from "
    "outside. No GPU was measured: docs/fidelity.md says how far the plant agrees with boards.",
    "Simulated: what voltana simulate says of the same trace and seed.",
)


def page_of(rehearsal: Rehearsal) -> Page:
    """The page of a rehearsal whose comparison has timelines."""
    scenario = rehearsal.comparison.scenario
    cluster, checks = scenario.file.cluster, all_checks(rehearsal)
    kept = sum(check.kept for check in checks)
    return Page(
        title=f"{cluster.model} on {cluster.hardware}: rehearsed and simulated",
        lead=f"{cluster.prefill} prefill and {cluster.decode} decode instances, "
        f"{len(scenario.trace)} requests in {scenario.trace.arrival_s[-1] - LEAD_IN_S:.0f} s, at "
        f"{rehearsal.factor:g} seconds a second, seed {scenario.file.seed}.",
        tiles=[
            ("As simulated", f"{kept} of {len(checks)}", "figures within what is allowed"),
            *_saved_tiles(rehearsal),
        ],
        figures=[_energy(rehearsal), *_timelines(rehearsal)],
        tables=[
            _verdict(rehearsal),
            *_all_figures(rehearsal),
            ("Control lag", ["policy", "p50", "p99", "latest", "assumed"], lag_cells(rehearsal)),
            *_faults(rehearsal),
        ],
        notes=[
            *NOTES,
            *(f"{name}: {lateness_text(rehearsal, name)}" for name in rehearsal.measured),
        ],
    )


def _saved_tiles(rehearsal: Rehearsal) -> list[tuple[str, str, str]]:
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    return [
        (
            f"{policy} saved",
            percent(measured.energy_saved_vs_static_max),
            f"simulated {percent(simulated[policy].energy_saved_vs_static_max)}",
        )
        for policy, measured in rehearsal.measured.items()
        if measured.energy_saved_vs_static_max == measured.energy_saved_vs_static_max
        and policy != "static-max"
    ]


def _verdict(rehearsal: Rehearsal) -> Table:
    headers = ["policy", "figure", "rehearsed", "simulated", "difference", "allowed", "kept"]
    return "Verdict", headers, [check_cells(check) for check in all_checks(rehearsal)]


def _all_figures(rehearsal: Rehearsal) -> list[Table]:
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    return [
        (
            f"All figures of {policy}",
            ["figure", "rehearsed", "simulated", "difference"],
            [list(row) for row in figure_rows(measured, simulated[policy])],
        )
        for policy, measured in rehearsal.measured.items()
    ]


def _faults(rehearsal: Rehearsal) -> list[Table]:
    if not rehearsal.faulty:
        return []
    rows = [
        [fault, policy, *cost_of_fault(rehearsal.measured[policy], measured)]
        for fault, faulty in rehearsal.faulty.items()
        for policy, measured in faulty.items()
    ]
    headers = [
        "fault", "policy", "energy", "TTFT kept", "ITL kept", "default clocks", "requests lost",
    ]  # fmt: skip
    return [("What faults cost", headers, rows)]


def _energy(rehearsal: Rehearsal) -> Figure:
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    policies = list(rehearsal.measured)
    values = {
        "rehearsed": [rehearsal.measured[name].energy_j / 1e3 for name in policies],
        "simulated": [simulated[name].energy_j / 1e3 for name in policies],
    }
    palette = Palette()
    traces = [
        {"type": "bar", "name": name, "x": policies, "y": rounded(kilojoules),
         "marker": {"color": palette.colour(name)}}
        for name, kilojoules in values.items()
    ]  # fmt: skip
    return Figure(
        title="Energy",
        text="Of all boards, from the first second of the trace to the common end.",
        traces=traces,
        layout={"barmode": "group", "xaxis": axis(""), "yaxis": axis("kJ", rangemode="tozero")},
        headers=["policy", "rehearsed kJ", "simulated kJ"],
        rows=[
            [name, f"{here:.2f}", f"{there:.2f}"]
            for name, here, there in zip(policies, *values.values(), strict=True)
        ],
    )


def _timelines(rehearsal: Rehearsal) -> list[Figure]:
    made = []
    records = {run.result.policy: run.record for run in rehearsal.comparison.runs}
    for policy, evidence in reversed(list(rehearsal.evidence.items())):
        record = records[policy]
        for instance in _shown(record.instances):
            lines = (
                _rehearsed(evidence, instance.instance, record.end_s),
                _simulated(instance, record.end_s),
            )
            made.append(_timeline(policy, instance.instance, lines))
    return made


def _shown(instances: Sequence[InstanceRecord]) -> Iterable[InstanceRecord]:
    for role in (Role.DECODE, Role.PREFILL):  # decode is where policies differ most
        yield from [one for one in instances if one.role is role][:SHOWN_INSTANCES]


Lines = tuple["FloatArray", "FloatArray", "FloatArray", "FloatArray"]
"""Middles of stretches of time, and the mean clock, batch and power of each; nan for a gap."""


def _rehearsed(evidence: Evidence, name: str, end_s: float) -> Lines:
    gpus, readings = evidence.devices[name], evidence.readings
    read_s = np.array([(r.at_s - evidence.start_s) * evidence.factor for r in readings])
    held = [r.clock_mhz[gpus[0]] for r in readings]
    drawn = [sum(r.power_w[gpu] for gpu in gpus) for r in readings]
    rows = np.array(evidence.rows[name], dtype=float).reshape(-1, 7)
    launched_s = rows[:, 0] - evidence.start_s * evidence.factor
    middle_s, clock_mhz = _means(read_s, held, end_s)
    return (
        middle_s,
        clock_mhz,
        _means(launched_s, rows[:, 3], end_s)[1],
        _means(read_s, drawn, end_s)[1],
    )


def _simulated(instance: InstanceRecord, end_s: float) -> Lines:
    line = instance.timeline
    middle_s, clock_mhz = _means(line.start_s, line.clock_mhz, end_s)
    return (
        middle_s,
        clock_mhz,
        _means(line.start_s, line.batch, end_s)[1],
        _means(line.start_s, line.power_w, end_s)[1],
    )


def _means(at_s: FloatArray, values: Any, end_s: float) -> tuple[FloatArray, FloatArray]:
    within = (at_s >= 0.0) & (at_s <= end_s)
    middle_s, _, mean, _ = binned(at_s[within], np.asarray(values)[within], end_s, BINS)
    return middle_s, mean


def _timeline(policy: str, name: str, lines: Sequence[Lines]) -> Figure:
    traces: list[dict[str, Any]] = []
    rows = []
    for (what, colour, dash), (middle_s, *series) in zip(BOTH, lines, strict=True):
        for row, values in enumerate(series, start=1):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": what,
                    "legendgroup": what,
                    "showlegend": row == 1,
                    "x": rounded(middle_s),
                    "y": rounded(values),
                    "yaxis": f"y{row}" if row > 1 else "y",
                    "line": {"color": colour, "dash": dash, "width": 1.5},
                }
            )
        rows.append([what, *(shown(_mean(values)) for values in series)])
    layout: dict[str, Any] = {
        "grid": {"rows": len(_PANELS), "columns": 1, "pattern": "coupled", "ygap": 0.22},
        "xaxis": axis("seconds of the trace"),
    }
    for row, title in enumerate(_PANELS, start=1):
        layout[f"yaxis{row}" if row > 1 else "yaxis"] = axis(title, nticks=5)
    return Figure(
        title="Timelines",
        text="Clock that the driver held, batch of each iteration and power of an instance. "
        "Simulated clock and power are those of iterations, with a gap where nothing runs.",
        traces=traces,
        layout=layout,
        headers=["", "mean clock, MHz", "mean batch", "mean power, W"],
        rows=rows,
        height=620,
        choice="Timelines",
        option=f"{policy}: {name}",
    )


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
