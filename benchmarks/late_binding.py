"""What late binding changes: the same policy, trace and seed, the decode instance chosen later.

    python -m benchmarks.late_binding --seeds 4 --duration 60

Every figure is a difference of two runs of one seed, late minus early; the mean over the seeds with
half of its 95 % interval (Student's t). Energy is relative to that of early binding, up to the last
completion of each run.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING

from benchmarks.paired import interval_half
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.evaluation.metrics import Result

POLICIES = ("static-max", "voltana-v0.1", "voltana")
CELLS = (
    ("llama-3.1-8b", 40.0),
    ("llama-3.1-8b", 80.0),
    ("qwen3-32b", 5.0),
    ("qwen3-32b", 10.0),
)
DECODE = (2, 4)


def main() -> None:
    """Run and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--duration", type=float, default=60.0)
    options = parser.parse_args()
    print(
        "| model | requests/s | cluster | policy | energy % | TTFT kept, points | TTFT p50 ms "
        "| TTFT p99 ms | ITL kept, points | ITL p99 ms |"
    )
    print("|---|---:|---|---|---:|---:|---:|---:|---:|---:|")
    for model, rate_rps in CELLS:
        for decode in DECODE:
            pairs = [
                [
                    _results(
                        model, rate_rps, decode, seed, binding=binding, duration_s=options.duration
                    )
                    for binding in ("early", "late")
                ]
                for seed in range(options.seeds)
            ]
            for policy in POLICIES:
                shown = _columns([(early[policy], late[policy]) for early, late in pairs])
                cells = (model, f"{rate_rps:g}", f"2P{decode}D", policy, *shown)
                print(f"| {' | '.join(cells)} |", flush=True)


def _results(
    model: str, rate_rps: float, decode: int, seed: int, *, binding: str, duration_s: float
) -> dict[str, Result]:
    scenario = load_scenario(
        None,
        {
            "policies": list(POLICIES),
            "seed": seed,
            "cluster": {"model": model, "decode": decode},
            "engine": {"binding": binding},
            ARRIVALS: {"rate_rps": rate_rps, "duration_s": duration_s},
        },
    )
    return {run.result.policy: run.result for run in compare(scenario).runs}


def _columns(pairs: Sequence[tuple[Result, Result]]) -> list[str]:
    figures = (
        [100.0 * (late.energy_j / early.energy_j - 1.0) for early, late in pairs],
        [100.0 * (late.ttft_attainment - early.ttft_attainment) for early, late in pairs],
        [1e3 * (late.ttft_p50_s - early.ttft_p50_s) for early, late in pairs],
        [1e3 * (late.ttft_p99_s - early.ttft_p99_s) for early, late in pairs],
        [100.0 * (late.itl_attainment - early.itl_attainment) for early, late in pairs],
        [1e3 * (late.itl_p99_s - early.itl_p99_s) for early, late in pairs],
    )
    return [f"{statistics.fmean(values):+.2f} ± {interval_half(values):.2f}" for values in figures]


if __name__ == "__main__":
    main()
