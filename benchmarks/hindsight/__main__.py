"""How much of what hindsight finds the default policy saves, and how far the bound lies below.

The bound (docs/bound.md) says what no schedule can beat, and not whether any comes near it. The
search looks for one that does: decode clocks, steps of the prefill clocks and ways to route decode
(`benchmarks.hindsight.schedule`). Attainment may be a point below that of static-max, as the bound
assumes, or less by `--allowance`.

Run as ``python -m benchmarks.hindsight``: minutes for each case. ``--out`` keeps every simulation
and every row as JSON; the same command goes on after a kill. The Markdown table is printed last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from benchmarks.cells import Cell
from benchmarks.hindsight.schedule import FOUND, POLICY, under
from benchmarks.hindsight.search import Known, Search
from benchmarks.paired import ALLOWANCE, ATTAINMENTS
from voltana.evaluation.bound import bound_comparison
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

if TYPE_CHECKING:
    from voltana.evaluation.scenario import Scenario

CASES = (
    *(
        Cell(model="llama-3.1-8b", workload="sharegpt", rate_rps=rate)
        for rate in (30.0, 50.0, 70.0)
    ),
    Cell(model="qwen3-32b", workload="lmsys", rate_rps=40.0),
    Cell(model="qwen3-30b-a3b", workload="sharegpt", rate_rps=40.0, hardware="h100-sxm"),
)

COLUMNS = {
    "bound": "bound saves %",
    "found": "found with hindsight %",
    "policy": "policy saves %",
    "share_of_found": "policy over found %",
    "share_of_bound": "found over bound %",
    **{f"found_{name}": f"found: {name}" for name in ATTAINMENTS},
}
"""Figures of a row, all shares, and their headings."""


def main() -> None:
    """Search, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/hindsight"), help="keeps everything")
    parser.add_argument("--cells", nargs="+", help="names of some of them", choices=_named())
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--evaluations", type=int, default=150, help="simulations for each case")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument(
        "--allowance", type=float, default=ALLOWANCE, help="less may be kept by so much"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    given = parser.parse_args()
    name = f"seed-{given.seed}-{given.duration:g}s-{given.evaluations}"
    if given.allowance != ALLOWANCE:
        name += f"-{given.allowance:g}"
    folder = given.out / name
    cells = [_named()[name] for name in given.cells or _named()]
    with ProcessPoolExecutor(given.jobs) as pool:
        made = [pool.submit(row, cell, given, folder) for cell in cells]
        rows = [done.result() for done in made]
    print(f"| case | {' | '.join(COLUMNS.values())} |")
    print(f"|---|{'---:|' * len(COLUMNS)}")
    for one in rows:
        cells_of_row = [_percent(one[column]) for column in COLUMNS]
        print(f"| {one['case']} | {' | '.join(cells_of_row)} |")


def row(cell: Cell, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of a case; read where they were worked out before.

    Args:
        cell: The case.
        given: The arguments of the command: seed, length of the trace, simulations, allowance.
        folder: Keeps simulations and figures.
    """
    # A schedule that lets requests miss teaches the margins much, which is logged.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    stem = cell.name.replace(" ", "_")
    kept = folder / f"{stem}.json"
    if kept.exists():
        read: dict[str, Any] = json.loads(kept.read_text())
        return read
    scenario = _scenario(cell, given.seed, given.duration)
    known = Known(folder / f"{stem}.jsonl")
    best = Search(scenario, given.evaluations, known, given.allowance).best()
    policies = {**scenario.policies, FOUND: under(best)}
    made = compare(dataclasses.replace(scenario, policies=policies))
    report = bound_comparison(made)
    policy, found = (run.result for run in made.runs)
    ours, theirs = policy.energy_saved_vs_static_max, found.energy_saved_vs_static_max
    bound = report.saving if math.isfinite(report.saving) else None
    figures = {
        "case": cell.name,
        "bound": bound,
        "found": theirs,
        "policy": ours,
        "share_of_found": ours / theirs,
        "share_of_bound": None if bound is None else theirs / bound,
        **{f"found_{name}": getattr(found, name) for name in ATTAINMENTS},
        **{f"policy_{name}": getattr(policy, name) for name in ATTAINMENTS},
        "schedule": best._asdict(),
        "seed": given.seed,
        "duration_s": given.duration,
        "evaluations": given.evaluations,
        "allowance": given.allowance,
    }
    partial = kept.with_suffix(".part")
    partial.write_text(json.dumps(figures, indent=2) + "\n")
    partial.replace(kept)
    return figures


def _scenario(cell: Cell, seed: int, duration_s: float) -> Scenario:
    tables: dict[str, dict[str, object]] = {}
    for name, value in cell.fields(duration_s).items():
        group, _, key = name.partition(".")
        tables.setdefault(group, {})[key] = value
    return load_scenario(None, {"policies": [POLICY], "seed": seed, **tables})


def _named() -> dict[str, Cell]:
    return {cell.name: cell for cell in CASES}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


if __name__ == "__main__":
    main()
