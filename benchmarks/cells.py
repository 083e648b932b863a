"""Cells of a benchmark: one cluster under one load. They run as a sweep, parallel and resumable."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept_runs import rows_of
from benchmarks.paired import ATTAINMENTS, REFERENCES, SAVED, mean, shortfall, verdict
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import make_plan
from voltana.evaluation.sweep.fields import as_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.paired import Figures, Runs
    from voltana.evaluation.scenario import Scenario

MODELS = Path(__file__).parent / "models"
"""Configurations of models that are no profiles of the project: a mixture of experts, and MLA."""

CHANGES = "changes"
"""Clock changes per instance-minute."""


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


def scenario_of(
    cell: Cell, duration_s: float, *, policies: Sequence[str] = ("static-max",), seed: int = 0
) -> Scenario:
    """The scenario of a cell, as the command line would make it."""
    tables = as_tables(cell.fields(duration_s))
    return load_scenario(None, {"policies": list(policies), "seed": seed, **tables})


def measure(
    cells: Sequence[Cell],
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    duration_s: float,
    folder: Path,
    processes: int,
) -> dict[str, Runs]:
    """Run what `folder` does not hold yet; the figures by cell, policy and seed.

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
    made: dict[str, Runs] = {}
    for row in rows_of(plan, folder, processes):
        made.setdefault(_name(row), defaultdict(list))[row["policy"]].append(_figures(row))
    return {cell.name: made[cell.name] for cell in cells if cell.name in made}


def table(by_cell: Mapping[str, Runs], shown: Sequence[str] | None = None) -> Iterable[str]:
    """The figures as lines of a Markdown table, in per cent; how much is missed in brackets.

    Args:
        by_cell: The figures.
        shown: The policies; None takes all.
    """
    yield "| cell | policy | saved % | TTFT % | ITL % | ITL of tokens % | changes/min |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for name, runs in by_cell.items():
        for policy in shown or runs:
            kept = " | ".join(_kept(runs, policy, column) for column in ATTAINMENTS)
            saved, changes = 100 * mean(runs[policy], SAVED), mean(runs[policy], CHANGES)
            yield f"| {name} | {policy} | {saved:.1f} | {kept} | {changes:.1f} |"


def verdicts(by_cell: Mapping[str, Runs], ours: str, others: Mapping[str, float]) -> Iterable[str]:
    """A line for each cell: what the reference and all others keep, and whether `ours` is held.

    Args:
        by_cell: The figures, of one policy of `REFERENCES` at least.
        ours: The policy that is judged.
        others: See `benchmarks.paired.verdict`.
    """
    shown = [other for other in others if any(other in runs for runs in by_cell.values())]
    heads = (f"{policy}: saved, kept" for policy in (*shown, ours))
    yield f"| cell | seeds | R keeps | {' | '.join(heads)} | less than R, points | held |"
    yield f"|---|---:|---|{'---|' * (len(shown) + 1)}---|---|"
    for name, runs in by_cell.items():
        short = [shortfall(runs, ours, column) for column in ATTAINMENTS]
        saved = (
            f"{100 * mean(runs[policy], SAVED):.1f}, {_three(runs[policy])}"
            if policy in runs
            else ""
            for policy in (*shown, ours)
        )
        kept = " / ".join(f"{100 * each.reference:.1f}" for each in short)
        less = " / ".join(f"{100 * each.mean:.1f}" for each in short)
        judged = verdict(runs, ours, others)
        yield f"| {name} | {len(runs[ours])} | {kept} | {' | '.join(saved)} | {less} | {judged} |"


def _three(runs: Sequence[Figures]) -> str:
    """TTFT, ITL and ITL of tokens, in per cent."""
    return " / ".join(f"{100 * mean(runs, column):.1f}" for column in ATTAINMENTS)


def _kept(runs: Runs, policy: str, column: str) -> str:
    made = f"{100 * mean(runs[policy], column):.1f}"
    if policy in REFERENCES or not any(name in runs for name in REFERENCES):
        return made
    short = shortfall(runs, policy, column)
    return f"{made} ({-100 * short.mean:+.1f} ±{100 * short.half:.1f})"


def _name(row: Mapping[str, Any]) -> str:
    rate = row["workload.rate_rps"] or row["trace.rate_rps"]
    source = row["workload.name"] or row["trace.file"]
    model = Path(row["cluster.model"])
    return (
        f"{row['cluster.hardware']} {model.stem if model.suffix == '.json' else model} "
        f"{Path(source).stem} {rate:g}"
    )


def _figures(row: Mapping[str, Any]) -> Figures:
    instances = row["cluster.prefill"] + row["cluster.decode"]
    # Nothing was offered that could have been kept or missed.
    made = {column: 1.0 if row[column] is None else row[column] for column in ATTAINMENTS}
    made[SAVED] = row[SAVED]
    made[CHANGES] = 60.0 * row["clock_changes"] / (row["simulated_s"] * instances)
    return made
