"""The table of analysed policies, and their JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from voltana.analysis.design import PiDesign
    from voltana.analysis.margins import Margins, Requirement
    from voltana.analysis.policy_analysis import PolicyAnalysis
    from voltana.evaluation.scenario import Scenario

HEADERS = (
    "policy",
    "clock MHz",
    "batch",
    "latency ms",
    "law around there",
    "gain margin",
    "phase margin",
    "delay margin",
    "modulus margin",
    "slowest s",
    "ripple ms",
    "verdict",
)
"""Headings of the table."""

_LEFT = {"policy", "law around there", "verdict"}


def rows(analyses: Sequence[PolicyAnalysis], requirement: Requirement) -> list[tuple[str, ...]]:
    """The cells under `HEADERS`, one row a policy."""
    return [_row(analysis, requirement) for analysis in analyses]


def print_table(
    analyses: Sequence[PolicyAnalysis], requirement: Requirement, console: Console
) -> None:
    """Print the table, as wide as it needs to be, and what its columns mean."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in HEADERS:
        table.add_column(
            header.replace(" ", "\n"),
            justify="left" if header in _LEFT else "right",
            no_wrap=True,
            style="bold" if header == "policy" else None,
        )
    for row in rows(analyses, requirement):
        table.add_row(*row)
    width = console.width
    wide = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(width, wide)
    console.print(table)
    console.width = width
    console.print(caption(analyses), style="dim", highlight=False)


def caption(analyses: Sequence[PolicyAnalysis]) -> str:
    """One paragraph that says what was linearised, and how well it was identified."""
    errors = [
        f"{a.policy} {a.identified.relative_error:.1%}"
        for a in analyses
        if a.identified is not None
    ]
    remedy = (
        ""
        if all(a.settled for a in analyses)
        else " Where a run has not settled, margins say little: raise --duration, or lower --rate."
    )
    return (
        "The decode loop of each policy, linearised where it settled; one sample is one iteration. "
        "Prefill loops are not analysed: they have no equilibrium (docs/analysis.md). "
        "'-': no such limit. Slowest: time constant of the slowest closed-loop pole. Ripple: most "
        "that rounding to levels can do to the latency. A linear fit to excited runs leaves this of"
        f" the latency, noise included: {', '.join(errors) or 'none'}."
        f"{remedy}"
    )


def print_design(design: PiDesign, clock_mhz: float, latency_s: float, console: Console) -> None:
    """Print designed gains and their margins in three lines."""
    gains, margins = design.gains, design.margins
    console.print(
        f"PI for {clock_mhz:g} MHz and {latency_s * 1e3:.1f} ms: "
        f"proportional_mhz = {gains.proportional_mhz:.4g}, "
        f"integral_mhz_per_s = {gains.integral_mhz_per_s:.4g}; "
        f"gain margin {_number(margins.gain_margin)}, "
        f"phase margin {_number(margins.phase_margin_deg)} degrees, "
        f"delay margin {_number(margins.delay_margin_s)} s, "
        f"modulus margin {_number(margins.modulus_margin)}",
        highlight=False,
        soft_wrap=True,
    )


def to_json(
    scenario: Scenario,
    analyses: Sequence[PolicyAnalysis],
    requirement: Requirement,
    design: PiDesign | None = None,
) -> str:
    """Everything as JSON; null where there is no such limit (an infinite margin)."""
    return json.dumps(
        {
            "scenario": scenario.file.model_dump(mode="json"),
            "requirement": dataclasses.asdict(requirement),
            "policies": [_to_dict(analysis, requirement) for analysis in analyses],
            "design": None
            if design is None
            else {
                "gains": dataclasses.asdict(design.gains),
                "margins": _margins(design.margins),
            },
        },
        indent=2,
        allow_nan=False,
    )


def _to_dict(analysis: PolicyAnalysis, requirement: Requirement) -> dict[str, Any]:
    identified = analysis.identified
    slopes = dataclasses.asdict(analysis.model.slopes)
    return {
        "policy": analysis.policy,
        "role": "decode",
        "instance": analysis.instance,
        "operating_point": dataclasses.asdict(analysis.point),
        "latency_slopes": slopes,
        "identified": None
        if identified is None
        else {
            **dataclasses.asdict(identified.slopes),
            "fit": identified.fit,
            "relative_error": identified.relative_error,
        },
        "batch_feedback": analysis.model.batch_feedback,
        "actuation": dataclasses.asdict(analysis.actuation),
        "law": analysis.law,
        "controller": {
            name: dataclasses.asdict(channel)
            for name, channel in analysis.response.model.channels.items()
        },
        "controller_fit": analysis.response.fit,
        "margins": _margins(analysis.margins),
        "slowest_s": _finite(analysis.slowest_s),
        "ripple_s": _finite(analysis.ripple_s),
        "served_share": analysis.served_share,
        "verdict": analysis.verdict(requirement),
    }


def _margins(margins: Margins) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in dataclasses.asdict(margins).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(analysis: PolicyAnalysis, requirement: Requirement) -> tuple[str, ...]:
    point, margins = analysis.point, analysis.margins
    return (
        analysis.policy,
        f"{point.clock_mhz:.0f}",
        f"{point.batch:.0f}",
        f"{point.latency_s * 1e3:.1f}",
        analysis.law,
        _number(margins.gain_margin),
        f"{margins.phase_margin_deg:.0f}°" if math.isfinite(margins.phase_margin_deg) else "-",
        f"{_number(margins.delay_margin_s)} s" if math.isfinite(margins.delay_margin_s) else "-",
        f"{margins.modulus_margin:.2f}",
        _number(analysis.slowest_s),
        _number(analysis.ripple_s * 1e3),
        analysis.verdict(requirement),
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
