"""The default policy against the fastest clock and the published one, point by point.

Every published rate (Llama-3.1-8B and Qwen3-32B on A100, two prefill and two decode instances), and
more around the saturation of Ministral-3B and Qwen3-32B; five seeds, on which nothing was tuned.
Run as ``python -m benchmarks.headline``: parallel, and the same command goes on after a kill.
``--help`` tells how to take fewer points, other seeds or another cluster.

"held" is whether every attainment is kept as `benchmarks.paired` says, and at least as much saved
as by voltana-v0.1 wherever that keeps them too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cells import Cell, measure, table, verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RATES_RPS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("llama-3.1-8b", "sharegpt"): (30, *range(50, 101, 5)),
    ("llama-3.1-8b", "lmsys"): (*range(75, 111, 5), 120, 130),
    ("qwen3-32b", "lmsys"): (40, 42, *range(45, 71, 5)),
    ("qwen3-32b", "sharegpt"): tuple(range(20, 51, 5)),
    ("ministral-3b", "sharegpt"): tuple(range(80, 151, 10)),
    ("ministral-3b", "lmsys"): tuple(range(80, 151, 10)),
}
"""Requests per second by model and workload."""

POLICIES = ("static-max", "static-low", "static-max-routed", "voltana-v0.1", "voltana")
OURS, PUBLISHED = "voltana", "voltana-v0.1"
SEEDS = (11, 12, 13, 14, 15)


def points(given: argparse.Namespace) -> list[Cell]:
    """The points that were asked for."""
    return [
        Cell(
            model=model,
            workload=workload,
            rate_rps=float(rate),
            hardware=given.hardware,
            tensor_parallel=given.tensor_parallel,
        )
        for (model, workload), rates in RATES_RPS.items()
        if given.model in {None, model} and workload in (given.workload or [workload])
        for rate in given.rates or rates
    ] or [
        # A model that has no points of its own.
        Cell(
            model=given.model,
            workload=workload,
            rate_rps=float(rate),
            hardware=given.hardware,
            tensor_parallel=given.tensor_parallel,
        )
        for workload in given.workload or ("sharegpt", "lmsys")
        for rate in given.rates or ()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append")
    parser.add_argument("--rates", type=float, nargs="+", help="requests/s")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--hardware", default="a100-sxm4-80gb")
    parser.add_argument("--model")
    parser.add_argument("--tensor-parallel", type=int)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/headline"))
    given = parser.parse_args(arguments)
    by_cell = measure(
        points(given),
        given.policies,
        given.seeds,
        duration_s=given.duration,
        folder=given.out,
        processes=given.processes,
    )
    print("\n".join(table(by_cell, given.policies)))
    print()
    print("\n".join(verdicts(by_cell, OURS, {PUBLISHED: 0.0})))


if __name__ == "__main__":
    main()
