"""A rehearsal as a table and as JSON: what was measured beside what the simulator says."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from voltana.evaluation.metrics import Result
    from voltana.rehearsal.measured import Measured
    from voltana.rehearsal.rehearse import Rehearsal

_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("energy", "energy_j", lambda x: f"{x / 1e3:.2f} kJ"),
    ("  prefill", "prefill_energy_j", lambda x: f"{x / 1e3:.2f} kJ"),
    ("  decode", "decode_energy_j", lambda x: f"{x / 1e3:.2f} kJ"),
    ("saved against static-max", "energy_saved_vs_static_max", lambda x: f"{x:.1%}"),
    ("TTFT kept", "ttft_attainment", lambda x: f"{x:.1%}"),
    ("ITL kept", "itl_attainment", lambda x: f"{x:.1%}"),
    ("TTFT p50", "ttft_p50_s", lambda x: f"{x * 1e3:.0f} ms"),
    ("TTFT p99", "ttft_p99_s", lambda x: f"{x * 1e3:.0f} ms"),
    ("prefill clock", "prefill_clock_mhz", lambda x: f"{x:.0f} MHz"),
    ("decode clock", "decode_clock_mhz", lambda x: f"{x:.0f} MHz"),
    ("certified decisions", "certified_share", lambda x: f"{x:.1%}"),
)
"""Figures that both know, under the names of both."""

_UNKNOWN = "-"


def print_report(rehearsal: Rehearsal, console: Console) -> None:
    """Print a table for each policy, and what only the rehearsal knows."""
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    for policy, measured in rehearsal.measured.items():
        table = Table(title=policy, title_justify="left")
        table.add_column("")
        for head in ("rehearsed", "simulated", "difference"):
            table.add_column(head, justify="right")
        for name, field, shown in _ROWS:
            table.add_row(name, *_cells(measured, simulated[policy], field, shown))
        console.print(table)
        console.print(_only_here(rehearsal, policy, measured), highlight=False)
        if policy in rehearsal.faulty:
            cost = _cost(measured, rehearsal.faulty[policy])
            console.print(f"With {rehearsal.fault}: {cost}\n", highlight=False)


def to_json(rehearsal: Rehearsal) -> str:
    """Everything as JSON."""
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    policies: dict[str, Any] = {}
    for policy, measured in rehearsal.measured.items():
        late = rehearsal.evidence[policy].lateness
        policies[policy] = {
            "rehearsed": measured.to_dict(),
            "simulated": simulated[policy].to_dict(),
            "lateness": {
                "events": late.happened,
                "late": sum(late.late),
                "share": late.share,
                "latest_s": late.latest_s,
            },
        }
    for policy, measured in rehearsal.faulty.items():
        policies[policy]["with_fault"] = measured.to_dict()
    made = {
        "fault": None if rehearsal.fault is None else str(rehearsal.fault),
        "factor": rehearsal.factor,
        "policies": policies,
    }
    return json.dumps(made, indent=2, allow_nan=False)


def _cells(
    measured: Measured, simulated: Result, field: str, shown: Callable[[float], str]
) -> tuple[str, str, str]:
    here, there = getattr(measured, field), getattr(simulated, field)
    texts = [shown(x) if math.isfinite(x) else _UNKNOWN for x in (here, there)]
    if not (math.isfinite(here) and math.isfinite(there)):
        return texts[0], texts[1], _UNKNOWN
    difference = here - there
    if shown(0.5).endswith("%"):
        return texts[0], texts[1], f"{difference * 100:+.1f} points"
    return texts[0], texts[1], f"{difference / there:+.1%}" if there else _UNKNOWN


def _cost(without: Measured, faulty: Measured) -> str:
    """What a fault cost."""
    energy = faulty.energy_j / without.energy_j - 1
    ttft = (faulty.ttft_attainment - without.ttft_attainment) * 100
    itl = (faulty.itl_attainment - without.itl_attainment) * 100
    default_s = faulty.default_clock_s - without.default_clock_s
    lost = faulty.requests_offered - faulty.requests_completed
    return (
        f"energy {energy:+.1%}, TTFT kept {ttft:+.1f} points, ITL kept {itl:+.1f} points, default "
        f"clocks for {default_s:+.1f} board-seconds, {lost} requests lost."
    )


def _only_here(rehearsal: Rehearsal, policy: str, measured: Measured) -> str:
    late = rehearsal.evidence[policy].lateness
    clocks = ", ".join(f"{name} {mhz:.0f}" for name, mhz in measured.clocks_mhz.items())
    lines = [
        f"{measured.requests_completed} of {measured.requests_offered} requests completed; the "
        f"load was at most {measured.sent_late_s * 1e3:.0f} ms late.",
        f"Mean clocks that the driver held, MHz: {clocks}.",
        f"{late.happened} events of virtual engines at {rehearsal.factor:g} seconds a second, "
        f"{late.share:.2%} over 5 ms late (wall).",
    ]
    if math.isfinite(measured.lag_p99_s):
        lines.append(
            f"From a launch to its clock in force: p50 {measured.lag_p50_s * 1e3:.0f} ms, p99 "
            f"{measured.lag_p99_s * 1e3:.0f} ms; without the driver p99 "
            f"{measured.lag_wall_p99_s * 1e3:.1f} ms on the wall."
        )
    lines += [f"{count} x {error}" for error, count in measured.errors.items()]
    return "\n".join(lines) + "\n"
