"""Colocated instances: the default scenario beside two pairs, and other models, boards and loads.

``python -m benchmarks.colocated [--duration S] [--seed N] [--mode prompts|mixed|pairs]`` prints the
first table of docs/colocated.md, ``python -m benchmarks.colocated --matrix`` the second one.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import Scenario, load_scenario
from voltana.plant.iteration import PlantModel
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from voltana.evaluation.metrics import Result

POLICIES = ("static-max", "static-low", "window", "best-fixed", "voltana")
PAIRS: Mapping[str, int] = {"prefill": 2, "decode": 2}
ALONE: Mapping[str, int] = {"colocated": 4}
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

SHARES = (0.1, 0.5, 1.2)
"""Loads, as shares of `capacity_rps`."""

BATCH = 64
"""Requests that decode together where capacity is reckoned."""

HEAD = "| energy (kJ) | saved | TTFT kept | ITL kept | tokens kept | clock |"


def scenario(
    cluster: Mapping[str, int],
    *,
    mixed: bool,
    policies: Sequence[str],
    seed: int,
    duration_s: float,
    rate_rps: float | None = None,
    stack: tuple[str, str, int] = STACKS[0],
) -> Scenario:
    """One cell."""
    model, hardware, tensor_parallel = stack
    workload: dict[str, float] = {"duration_s": duration_s}
    if rate_rps is not None:
        workload["rate_rps"] = rate_rps
    whole = {**cluster, "model": model, "hardware": hardware, "tensor_parallel": tensor_parallel}
    return load_scenario(
        None,
        {
            "policies": list(policies),
            "seed": seed,
            "cluster": whole,
            "engine": {"mixed_chunk": mixed},
            "workload": workload,
        },
    )


def capacity_rps(cell: Scenario) -> float:
    """Requests per second that all instances serve at the fastest clock, roughly."""
    cluster, trace = cell.cluster, cell.trace
    plant = PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    fastest_mhz = cluster.hardware.clocks_mhz[-1]
    prompt, output = int(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())
    prompt_s = plant.iterate(Load.prefill([(prompt, 0)]), fastest_mhz)[0]
    batch = Load.decode(BATCH, BATCH * (prompt + int(output / 2)))
    return cluster.colocated / (prompt_s + output * plant.iterate(batch, fastest_mhz)[0] / BATCH)


def row(label: str, result: Result) -> str:
    """One row of a table."""
    clocks = (result.prefill_clock_mhz, result.decode_clock_mhz, result.colocated_clock_mhz)
    shown = "/".join(f"{mhz:.0f}" for mhz in clocks if mhz > 0)
    return (
        f"| {label} | {result.policy} | {result.energy_j / 1e3:.1f} "
        f"| {result.energy_saved_vs_static_max:.1%} | {result.ttft_attainment:.2%} "
        f"| {result.itl_attainment:.2%} | {result.itl_token_attainment:.2%} | {shown} |"
    )


def default_scenario(
    modes: Sequence[str], policies: Sequence[str], duration_s: float, seeds: Sequence[int]
) -> Iterator[str]:
    """Rows of the default scenario."""
    yield f"| cluster | policy {HEAD}"
    yield "|---|---|---|---|---|---|---|---|"
    for mode in modes:
        label, cluster, mixed = CLUSTERS[mode]
        for seed in seeds:
            cell = scenario(
                cluster, mixed=mixed, policies=policies, seed=seed, duration_s=duration_s
            )
            for run in compare(cell).runs:
                yield row(f"{label}, {seed}" if len(seeds) > 1 else label, run.result)


def matrix(duration_s: float, seeds: Sequence[int], best_fixed: bool) -> Iterator[str]:
    """Rows of models, boards, loads, modes and seeds."""
    policies = ("static-max", *(["best-fixed"] if best_fixed else []), "voltana")
    yield f"| stack, load, mode, seed | policy {HEAD}"
    yield "|---|---|---|---|---|---|---|---|"
    for stack in STACKS:
        first = scenario(
            ALONE, mixed=False, policies=["static-max"], seed=0, duration_s=duration_s, stack=stack
        )
        most_rps = capacity_rps(first)
        for share in SHARES:
            for mixed in (False, True):
                for seed in seeds:
                    cell = scenario(
                        ALONE,
                        mixed=mixed,
                        policies=policies,
                        seed=seed,
                        duration_s=duration_s,
                        rate_rps=round(share * most_rps, 1),
                        stack=stack,
                    )
                    mode = "mixed" if mixed else "prompts first"
                    label = f"{stack[0]} on {stack[1]}, {share:.0%}, {mode}, {seed}"
                    for run in compare(cell).runs:
                        yield row(label, run.result)


def main() -> None:
    """Run and print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals (120)")
    parser.add_argument("--seed", type=int, action="append", help="one or more (0)")
    parser.add_argument("--mode", choices=list(CLUSTERS), action="append", help="all of them")
    parser.add_argument("--policy", action="append", help="other policies than the table's")
    parser.add_argument("--matrix", action="store_true", help="other models, boards and loads")
    parser.add_argument("--best-fixed", action="store_true", help="search it in the matrix too")
    given = parser.parse_args()
    seeds = given.seed or [0]
    rows = (
        matrix(given.duration, seeds, given.best_fixed)
        if given.matrix
        else default_scenario(
            given.mode or list(CLUSTERS), given.policy or POLICIES, given.duration, seeds
        )
    )
    for line in rows:
        print(line, flush=True)


if __name__ == "__main__":
    main()
