"""Colocated instances: the default scenario beside two pairs, and other models, boards and loads.

``python -m benchmarks.colocated [--duration S] [--seed N] [--mode prompts|mixed|pairs]`` prints the
first table of docs/colocated.md, ``python -m benchmarks.colocated --matrix --best-fixed --short``
the second one. Runs as sweeps, one a stack, printed as soon as it has ended: what was run stays in
``--out``, so that the same command goes on where it was killed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept_runs import rows_of
from benchmarks.paired import (
    ALLOWANCE,
    ATTAINMENTS,
    REFERENCES,
    SAVED,
    mean,
    shortfall,
    verdict,
)
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import make_plan
from voltana.evaluation.sweep.fields import as_tables
from voltana.plant.iteration import PlantModel
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.paired import Figures, Runs
    from voltana.evaluation.scenario import Scenario

    Fields = dict[str, Any]

POLICIES = ("static-max", "static-low", "window", "best-fixed", "voltana")
SEARCHED, OURS = "best-fixed", "voltana"
PAIRS: Mapping[str, int] = {"cluster.prefill": 2, "cluster.decode": 2}
ALONE: Mapping[str, int] = {"cluster.prefill": 0, "cluster.decode": 0, "cluster.colocated": 4}
CLUSTERS = {
    "pairs": ("2P2D", PAIRS, False),
    "prompts": ("4C, prompts first", ALONE, False),
    "mixed": ("4C, mixed batches", ALONE, True),
}

STACKS = (
    ("llama-3.1-8b", "a100-sxm4-80gb", 1),
    ("llama-3.1-8b", "l40s", 1),
    ("ministral-3b", "h200-sxm", 1),
    ("qwen3-32b", "h100-sxm", 2),
    ("benchmarks/models/qwen3-30b-a3b.json", "h100-sxm", 1),
)
"""Model, board and boards an instance."""

MODES = {"prompts": "prompts first", "mixed": "mixed"}
"""Of engines, as the matrix calls them."""

SHARES = (0.1, 0.5, 1.2)
"""Loads, as shares of `capacity_rps`."""

BATCH = 64
"""Requests that decode together where capacity is reckoned."""

HEAD = (
    "| energy (kJ) | saved | TTFT kept | ITL kept | tokens kept | clock |\n"
    "|---|---|---|---|---|---|---|---|"
)
CLOCKS = ("prefill_clock_mhz", "decode_clock_mhz", "colocated_clock_mhz")


def of_stack(stack: tuple[str, str, int], duration_s: float) -> Fields:
    """The fields of four colocated instances of a stack."""
    model, hardware, tensor_parallel = stack
    return {
        **ALONE,
        "cluster.model": model,
        "cluster.hardware": hardware,
        "cluster.tensor_parallel": tensor_parallel,
        "workload.duration_s": duration_s,
    }


def capacity_rps(cell: Scenario) -> float:
    """Requests per second that all instances serve at the fastest clock, roughly."""
    cluster, trace = cell.cluster, cell.trace
    plant = PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    fastest_mhz = cluster.hardware.clocks_mhz[-1]
    prompt, output = int(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())
    prompt_s = plant.iterate(Load.prefill([(prompt, 0)]), fastest_mhz)[0]
    batch = Load.decode(BATCH, BATCH * (prompt + int(output / 2)))
    return cluster.colocated / (prompt_s + output * plant.iterate(batch, fastest_mhz)[0] / BATCH)


def row(label: str, figures: Mapping[str, Any]) -> str:
    """One row of a table."""
    shown = "/".join(f"{figures[name]:.0f}" for name in CLOCKS if figures.get(name))
    return (
        f"| {label} | {figures['policy']} | {figures['energy_j'] / 1e3:.1f} "
        f"| {figures[SAVED]:.1%} | {figures['ttft_attainment']:.2%} "
        f"| {figures['itl_attainment']:.2%} | {figures['itl_token_attainment']:.2%} | {shown} |"
    )


def ran_as(
    labelled: Mapping[str, Fields], policies: Sequence[str], out: Path, processes: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Label and figures of every run of scenarios under policies; what was run is kept.

    All policies of a scenario run together: what is saved is told at the end of the slowest.

    Args:
        labelled: Scenarios with their labels.
        policies: What is compared.
        out: Keeps the runs.
        processes: At once.
    """
    plan = make_plan({"policies": list(policies)}, rows=list(labelled.values()))
    labels = {p.key: label for p, label in zip(plan.points, labelled, strict=True)}
    for figures in rows_of(plan, out, processes, labels):
        yield labels[figures["run"]], figures


def measured(
    labelled: Mapping[str, Fields], policies: Sequence[str], out: Path, processes: int
) -> Iterator[str]:
    """A row a run; see `ran_as`."""
    for label, figures in ran_as(labelled, policies, out, processes):
        yield row(label, figures)


def in_short(
    labelled: Mapping[str, Fields], policies: Sequence[str], out: Path, processes: int
) -> Iterator[str]:
    """A row a cell, over its seeds: what is saved, what the worst attainment falls short by.

    Both are means over the seeds, the last column is what they are judged by (`verdict`). See
    `ran_as`; the references are those of `benchmarks.paired`.
    """
    by_cell: dict[str, Runs] = {}
    for label, figures in ran_as(labelled, policies, out, processes):
        cell = by_cell.setdefault(label.rpartition(", ")[0], {})
        cell.setdefault(figures["policy"], []).append(_measured(figures))
    for cell, runs in by_cell.items():
        told = [_told(runs, name) for name in policies if name not in REFERENCES]
        holds = verdict(runs, OURS, {SEARCHED: ALLOWANCE}) if OURS in runs else "-"
        yield f"| {cell} | {' | '.join(told)} | {holds} |"


def _measured(figures: Mapping[str, Any]) -> Figures:
    """What is compared of a run; nobody is late where nothing could be."""
    kept = {name: 1.0 if figures[name] is None else figures[name] for name in ATTAINMENTS}
    return {SAVED: figures[SAVED], **kept}


def _told(runs: Runs, policy: str) -> str:
    short = max(shortfall(runs, policy, column).mean for column in ATTAINMENTS)
    return f"{mean(runs[policy], SAVED):.1%} | {100 * short:.2f}"


def short_head(policies: Sequence[str]) -> str:
    """The head of the table of `in_short`."""
    compared = [name for name in policies if name not in REFERENCES]
    columns = "".join(f" {name} saves | short by |" for name in compared)
    return f"| stack, load, mode |{columns} holds |\n|{'---|' * (2 * len(compared) + 2)}"


def default_scenario(
    modes: Sequence[str], duration_s: float, seeds: Sequence[int]
) -> dict[str, Fields]:
    """The default scenario in every mode."""
    made = {}
    for mode in modes:
        label, cluster, mixed = CLUSTERS[mode]
        for seed in seeds:
            made[f"{label}, {seed}" if len(seeds) > 1 else label] = {
                **cluster,
                "engine.mixed_chunk": mixed,
                "seed": seed,
                "workload.duration_s": duration_s,
            }
    return made


def matrix(
    stack: tuple[str, str, int],
    duration_s: float,
    seeds: Sequence[int],
    shares: Sequence[float],
    modes: Sequence[str] = tuple(MODES),
) -> dict[str, Fields]:
    """Loads, modes and seeds of a stack."""
    base = of_stack(stack, duration_s)
    first = load_scenario(None, {"policies": ["static-max"], "seed": 0, **as_tables(base)})
    most_rps, name = capacity_rps(first), Path(stack[0]).name.removesuffix(".json")
    return {
        f"{name} on {stack[1]}, {share:.0%}, {MODES[mode]}, {seed}": {
            **base,
            "engine.mixed_chunk": mode == "mixed",
            "seed": seed,
            "workload.rate_rps": round(share * most_rps, 1),
        }
        for share in shares
        for mode in modes
        for seed in seeds
    }


def main() -> None:
    """Run and print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals (120)")
    parser.add_argument("--seed", type=int, action="append", help="one or more (0)")
    parser.add_argument("--mode", choices=list(CLUSTERS), action="append", help="all of them")
    parser.add_argument("--policy", action="append", help="other policies than the table's")
    parser.add_argument("--matrix", action="store_true", help="other models, boards and loads")
    parser.add_argument("--best-fixed", action="store_true", help="search it in the matrix too")
    parser.add_argument("--short", action="store_true", help="a row a cell, over its seeds")
    parser.add_argument("--stack", type=int, action="append", help="number of a stack (all)")
    parser.add_argument("--share", type=float, action="append", help="of what is served (all)")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    parser.add_argument("--out", type=Path, default=Path("out/colocated"), help="keeps the runs")
    given = parser.parse_args()
    seeds = given.seed or [0]
    if not given.matrix:
        print(f"| cluster | policy {HEAD}", flush=True)
        cells = default_scenario(given.mode or list(CLUSTERS), given.duration, seeds)
        policies = given.policy or POLICIES
        for line in measured(cells, policies, given.out, given.processes):
            print(line, flush=True)
        return
    policies = [*REFERENCES, *([SEARCHED] if given.best_fixed else []), OURS]
    policies = given.policy or policies
    head = short_head(policies) if given.short else f"| stack, load, mode, seed | policy {HEAD}"
    print(head, flush=True)
    told = in_short if given.short else measured
    for number in given.stack or range(len(STACKS)):
        modes = [mode for mode in given.mode or MODES if mode in MODES]
        cells = matrix(STACKS[number], given.duration, seeds, given.share or SHARES, modes)
        for line in told(cells, policies, given.out, given.processes):
            print(line, flush=True)


if __name__ == "__main__":
    main()
