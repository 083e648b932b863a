"""The table of a comparison, for terminals and for Markdown, and its JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from voltana.evaluation.compare import Comparison
    from voltana.evaluation.metrics import Result

HEADERS = (
    "policy",
    "energy kJ",
    "saved",
    "TTFT kept",
    "ITL kept",
    "TTFT ms p50/p99",
    "ITL ms p50/p99",
    "MHz P/D",
    "clock changes",
)
"""Headings of the table; P/D: mean clock of the prefill and of the decode instances."""

UNKNOWN = "-"


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The cells under `HEADERS`, one row per policy in the order asked for."""
    return [_row(run.result) for run in comparison.runs]


def caption(comparison: Comparison) -> str:
    """One paragraph that says what was run and what the columns count."""
    file, slo = comparison.scenario.file, comparison.scenario.cluster.slo
    cluster, trace = file.cluster, comparison.scenario.trace
    source = (
        f"{file.workload.name} at {file.workload.rate_rps:g} requests/s"
        if file.workload is not None
        else f"trace {file.trace.file.name if file.trace else ''}"
    )
    silent = comparison.reference not in comparison.runs
    return (
        f"{cluster.prefill} prefill + {cluster.decode} decode instances of {cluster.model} on "
        f"{cluster.hardware} (TP {cluster.tensor_parallel}); {source}, {len(trace)} requests, "
        f"{comparison.reference.result.simulated_s:.1f} s simulated. SLO: TTFT "
        f"{slo.ttft_s * 1e3:g} ms, ITL {slo.itl_s * 1e3:g} ms. Energy of every policy up to the "
        f"same instant; saved: against {comparison.reference.result.policy}"
        f"{' (run as the reference)' if silent else ''}; kept: share of requests; P/D: mean clock "
        "of the prefill and the decode instances."
    )


def print_table(comparison: Comparison, console: Console) -> None:
    """Print the table; closer on a narrow terminal, but never with a figure cut off."""
    roomy, close = (_rich_table(comparison, gap=gap) for gap in (3, 1))
    table = roomy if _width(roomy, console) <= console.width else close
    width = console.width
    console.width = max(width, _width(table, console))
    console.print(table)
    console.width = width
    console.print(caption(comparison), style="dim", highlight=False)


def _width(table: Table, console: Console) -> int:
    """Characters that the table takes with nothing wrapped or cut."""
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


def _rich_table(comparison: Comparison, *, gap: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False)
    for index, header in enumerate(HEADERS):
        table.add_column(
            header.replace(" ", "\n"),
            justify="left" if index == 0 else "right",
            no_wrap=True,
            style="bold" if index == 0 else None,
        )
    for row in rows(comparison):
        table.add_row(*row)
    return table


def markdown_table(comparison: Comparison) -> str:
    """The same table in Markdown, with its caption below."""
    lines = [HEADERS, tuple("---" if i == 0 else "---:" for i in range(len(HEADERS)))]
    lines += rows(comparison)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption(comparison)}\n"


def markdown_report(comparison: Comparison, images: Sequence[Path]) -> str:
    """The table and the plots on one page.

    Args:
        comparison: What was run.
        images: Plots that lie beside the report.
    """
    figures = "\n\n".join(f"![{image.stem}]({image.name})" for image in images)
    return f"# Policies compared\n\n{markdown_table(comparison)}\n{figures}\n"


def to_json(comparison: Comparison) -> str:
    """The comparison as JSON: ``scenario``, ``results``, and the ``reference`` of savings."""
    reference = comparison.reference.result
    return json.dumps(
        {
            "scenario": comparison.scenario.file.model_dump(mode="json"),
            "results": [run.result.to_dict() for run in comparison.runs],
            "reference": {"policy": reference.policy, "energy_j": reference.energy_j},
        },
        indent=2,
        allow_nan=False,
    )


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.policy,
        kilojoules(result.energy_j),
        _percent(result.energy_saved_vs_static_max),
        _percent(result.ttft_attainment),
        _percent(result.itl_attainment),
        f"{_ms(result.ttft_p50_s)}/{_ms(result.ttft_p99_s)}",
        f"{_ms(result.itl_p50_s, 1)}/{_ms(result.itl_p99_s, 1)}",
        f"{result.prefill_clock_mhz:.0f}/{result.decode_clock_mhz:.0f}",
        str(result.clock_changes),
    )


def kilojoules(energy_j: float) -> str:
    """Energy in kJ, to three digits or to 0.1 kJ."""
    return f"{energy_j / 1e3:.1f}" if energy_j >= 1e4 else f"{energy_j / 1e3:.3g}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else UNKNOWN


def _ms(seconds: float, digits: int = 0) -> str:
    if math.isnan(seconds):
        return UNKNOWN
    return f"{seconds * 1e3:.{digits}f}" if math.isfinite(seconds) else "never"
