"""Cells of a benchmark: one cluster under one load. They run as a sweep, parallel and resumable."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MODELS = Path(__file__).parent / "models"
"""Configurations of models that are no profiles of the project: a mixture of experts, and MLA."""

REFERENCES = ("static-max", "static-max-routed")
"""The reference of an attainment is the better of these."""

ATTAINMENTS = ("ttft_attainment", "itl_attainment", "itl_token_attainment")
SAVED = "energy_saved_vs_static_max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cluster under one load.

    Attributes:
        model: A profile, or the name of a file of `MODELS`.
        workload: Name of a synthetic workload, or the path of a trace.
        rate_rps: Requests per second.
        hardware: A profile.
        tensor_parallel: Boards of an instance; None for the model's default.
    """

    model: str
    workload: str
    rate_rps: float
    hardware: str = "a100-sxm4-80gb"
    tensor_parallel: int | None = None

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.hardware} {self.model} {Path(self.workload).stem} {self.rate_rps:g}"

    def fields(self, duration_s: float) -> dict[str, Any]:
        """The fields of its scenario, by their dotted names."""
        file = MODELS / f"{self.model}.json"
        cluster = {
            "cluster.hardware": self.hardware,
            "cluster.model": str(file) if file.exists() else self.model,
        }
        if self.tensor_parallel is not None:
            cluster["cluster.tensor_parallel"] = self.tensor_parallel  # type: ignore[assignment]
        if Path(self.workload).suffix:
            load = {"trace.file": self.workload, "trace.rate_rps": self.rate_rps}
            return {**cluster, **load, "trace.duration_s": duration_s}
        load = {"workload.name": self.workload, "workload.rate_rps": self.rate_rps}
        return {**cluster, **load, "workload.duration_s": duration_s}


Figures = dict[str, float]
"""Mean over the seeds of `SAVED`, `ATTAINMENTS` and clock changes per instance-minute."""


def measure(
    cells: Sequence[Cell],
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    duration_s: float,
    folder: Path,
    processes: int,
) -> dict[str, dict[str, Figures]]:
    """Run what `folder` does not hold yet; the figures by cell and policy.

    Args:
        cells: What is run.
        policies: Compared on the same trace in every cell.
        seeds: Of the workload and of all noise.
        duration_s: Length of the trace.
        folder: Keeps every scenario as soon as it has ended.
        processes: At once.
    """
    rows = [cell.fields(duration_s) for cell in cells]
    plan = make_plan({"policies": list(policies)}, {"seed": list(seeds)}, rows)
    outcome = run_sweep(plan, folder, LocalWorkers(processes), _progress)
    for key, reason in outcome.failures.items():
        print(f"{key} failed: {reason}", file=sys.stderr)
    gathered: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in outcome.rows:
        gathered[_name(row), row["policy"]].append(row)
    made: dict[str, dict[str, Figures]] = defaultdict(dict)
    for (name, policy), found in gathered.items():
        made[name][policy] = _figures(found)
    return {cell.name: made[cell.name] for cell in cells if cell.name in made}


def shortfall(figures: Mapping[str, Figures], policy: str, attainment: str) -> float:
    """What a policy keeps less than the better of the references."""
    best = max(figures[name][attainment] for name in REFERENCES if name in figures)
    return best - figures[policy][attainment]


def table(figures: Mapping[str, Mapping[str, Figures]]) -> Iterable[str]:
    """The figures as lines of a Markdown table, in per cent."""
    yield "| cell | policy | saved % | TTFT % | ITL % | ITL of tokens % | changes/min |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for name, by_policy in figures.items():
        for policy, row in by_policy.items():
            cells = " | ".join(f"{100 * row[column]:.1f}" for column in (SAVED, *ATTAINMENTS))
            yield f"| {name} | {policy} | {cells} | {row['changes']:.1f} |"


def _name(row: Mapping[str, Any]) -> str:
    rate = row["workload.rate_rps"] or row["trace.rate_rps"]
    source = row["workload.name"] or row["trace.file"]
    model = Path(row["cluster.model"])
    return (
        f"{row['cluster.hardware']} {model.stem if model.suffix == '.json' else model} "
        f"{Path(source).stem} {rate:g}"
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> Figures:
    made = {
        column: statistics.fmean(row[column] for row in rows if row[column] is not None)
        for column in (SAVED, *ATTAINMENTS)
    }
    instances = rows[0]["cluster.prefill"] + rows[0]["cluster.decode"]
    made["changes"] = statistics.fmean(
        60.0 * row["clock_changes"] / (row["simulated_s"] * instances) for row in rows
    )
    return made


def _progress(ended: int, total: int, failed: int) -> None:
    print(f"{ended}/{total} scenarios, {failed} failed", file=sys.stderr)
