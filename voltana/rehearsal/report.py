"""A rehearsal as a table and as JSON: what was measured beside what the simulator says."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from voltana.rehearsal.verdict import verdict_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from voltana.evaluation.metrics import Result
    from voltana.rehearsal.measured import Measured
    from voltana.rehearsal.rehearse import Rehearsal
    from voltana.rehearsal.verdict import Check

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
        for row in figure_rows(measured, simulated[policy]):
            table.add_row(*row)
        console.print(table)
        console.print(_only_here(rehearsal, policy, measured), highlight=False)
        for fault, faulty in rehearsal.faulty.items():
            energy, ttft, itl, default, lost = cost_of_fault(measured, faulty[policy])
            console.print(
                f"With {fault}: energy {energy}, TTFT kept {ttft}, ITL kept {itl}, "
                f"default clocks for {default}, {lost} requests lost.\n",
                highlight=False,
            )
    console.print(verdict_text(rehearsal), highlight=False)


def to_json(rehearsal: Rehearsal) -> str:
    """Everything as JSON."""
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    policies: dict[str, Any] = {}
    for policy, measured in rehearsal.measured.items():
        late = rehearsal.evidence[policy].lateness
        policies[policy] = {
            "rehearsed": measured.to_dict(),
            "simulated": simulated[policy].to_dict(),
            "simulated_spread": asdict(rehearsal.spread[policy]),
            "verdict": [_check_dict(check) for check in checks_on(rehearsal, policy)],
            "lateness": {
                "events": late.happened,
                "late": sum(late.late),
                "share": late.share,
                "latest_s": late.latest_s,
            },
            "with_faults": {
                fault: faulty[policy].to_dict() for fault, faulty in rehearsal.faulty.items()
            },
        }
    made = {
        "factor": rehearsal.factor,
        "as_simulated": all(check.kept for check in all_checks(rehearsal)),
        "policies": policies,
    }
    return json.dumps(made, indent=2, allow_nan=False)


def checks_on(rehearsal: Rehearsal, policy: str) -> tuple[Check, ...]:
    """What of a policy is held against the simulator."""
    simulated = {run.result.policy: run.result for run in rehearsal.comparison.runs}
    return verdict_on(
        policy, rehearsal.measured[policy], simulated[policy], rehearsal.spread[policy]
    )


def all_checks(rehearsal: Rehearsal) -> list[Check]:
    """The same of every policy."""
    return [check for policy in rehearsal.measured for check in checks_on(rehearsal, policy)]


def check_cells(check: Check) -> list[str]:
    """Policy, figure, rehearsed, simulated, difference, allowed, and whether it is kept."""

    def shown(value: float) -> str:
        return f"{value:.1f} {check.unit}" if math.isfinite(value) else _UNKNOWN

    points = "points" if check.unit == "%" else check.unit
    compared = math.isfinite(check.difference) and math.isfinite(check.simulated)
    return [
        check.policy,
        check.what,
        shown(check.rehearsed),
        shown(check.simulated),
        f"{check.difference:+.1f} {points}" if compared else _UNKNOWN,
        f"{check.allowed:.1f} {points}",
        "yes" if check.kept else "no",
    ]


def verdict_text(rehearsal: Rehearsal) -> str:
    """The verdict in a sentence, and each figure that is not as simulated."""
    checks = all_checks(rehearsal)
    broken = [check for check in checks if not check.kept]
    if not broken:
        return f"As simulated: all {len(checks)} figures are within what is allowed."
    lines = [f"Not as simulated: {len(broken)} of {len(checks)} figures."]
    for check in broken:
        policy, what, here, there, difference, allowed, _ = check_cells(check)
        lines.append(
            f"  {policy}: {what} {here}, simulated {there} ({difference}; allowed {allowed})"
        )
    return "\n".join(lines)


def figure_rows(measured: Measured, simulated: Result) -> list[tuple[str, str, str, str]]:
    """Name, rehearsed, simulated and difference of every figure that both know."""
    return [(name, *_cells(measured, simulated, field, shown)) for name, field, shown in _ROWS]


def lag_cells(rehearsal: Rehearsal) -> list[list[str]]:
    """Policy, and from a launch to the clock in force: p50, p99, latest decision, assumed."""
    rows = []
    for policy, one in rehearsal.measured.items():
        if not math.isfinite(one.lag_p50_s):
            continue
        rows.append(
            [
                policy,
                f"{one.lag_p50_s * 1e3:.1f} ms ({one.lag_wall_p50_s * 1e3:.1f} on the wall)",
                f"{one.lag_p99_s * 1e3:.1f} ms ({one.lag_wall_p99_s * 1e3:.1f} on the wall)",
                f"{one.decision_latest_s * 1e3:.1f} ms",
                f"{one.lag_assumed_s * 1e3:.1f} ms",
            ]
        )
    return rows


def lateness_text(rehearsal: Rehearsal, policy: str) -> str:
    """How well the machine kept up."""
    late = rehearsal.evidence[policy].lateness
    return (
        f"{late.happened} events of virtual engines at {rehearsal.factor:g} seconds a second, "
        f"{late.share:.2%} over 5 ms late (wall)."
    )


def cost_of_fault(without: Measured, faulty: Measured) -> tuple[str, str, str, str, str]:
    """What a fault cost: energy, TTFT kept, ITL kept, default clocks, lost requests."""
    return (
        f"{faulty.energy_j / without.energy_j - 1:+.1%}",
        f"{(faulty.ttft_attainment - without.ttft_attainment) * 100:+.1f} points",
        f"{(faulty.itl_attainment - without.itl_attainment) * 100:+.1f} points",
        f"{faulty.default_clock_s - without.default_clock_s:+.1f} board-seconds",
        str(faulty.requests_offered - faulty.requests_completed),
    )


def _check_dict(check: Check) -> dict[str, Any]:
    plain = {key: _finite(value) for key, value in asdict(check).items() if key != "policy"}
    return plain | {"difference": _finite(check.difference), "kept": check.kept}


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


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


def _only_here(rehearsal: Rehearsal, policy: str, measured: Measured) -> str:
    clocks = ", ".join(f"{name} {mhz:.0f}" for name, mhz in measured.clocks_mhz.items())
    lines = [
        f"{measured.requests_completed} of {measured.requests_offered} requests completed; the "
        f"load was at most {measured.sent_late_s * 1e3:.0f} ms late.",
        f"Mean clocks that the driver held, MHz: {clocks}.",
        lateness_text(rehearsal, policy),
    ]
    for name, p50, p99, latest, assumed in lag_cells(rehearsal):
        if name == policy:
            lines.append(
                f"From a launch to its clock in force: p50 {p50}, p99 {p99}, the simulator "
                f"assumes {assumed}; the latest decision came {latest} after its launch."
            )
    lines += [f"{count} x {error}" for error, count in measured.errors.items()]
    return "\n".join(lines) + "\n"
