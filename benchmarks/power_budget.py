"""What a power budget costs: power and attainment of two policies within ever smaller budgets.

    python -m benchmarks.power_budget --budgets 900,800,750,700 --seeds 3

Powers are shares of the budget, or of the boards' limits where there is none: the mean of the
seeds, and the worst second and 5 s of the worst seed.
"""

from __future__ import annotations

import argparse

import numpy as np

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario

POLICIES = ("static-max", "voltana")
BOARDS_W = 4 * 400.0
"""Four boards' power limits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", default="900,800,750,700")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=40.0)
    options = parser.parse_args()
    print("| budget | policy | mean power | worst 5 s | worst second | TTFT kept | ITL kept |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for budget_w in (None, *map(float, options.budgets.split(","))):
        runs = [
            compare(_scenario(budget_w, options.rate, seed, options.duration)).runs
            for seed in range(options.seeds)
        ]
        for index in range(len(POLICIES)):
            _print_row(budget_w, [seed[index] for seed in runs])


def _scenario(budget_w, rate_rps, seed, duration_s):
    return load_scenario(
        None,
        {
            "policies": list(POLICIES),
            "seed": seed,
            "power_budget_w": budget_w,
            ARRIVALS: {"rate_rps": rate_rps, "duration_s": duration_s},
        },
    )


def _print_row(budget_w, runs) -> None:
    whole = budget_w or BOARDS_W
    seconds = max(run.record.power_w.max() for run in runs)
    peak = max(run.result.peak_power_w for run in runs)
    mean = np.mean([run.result.mean_power_w for run in runs])
    ttft, itl = (
        100 * np.mean([getattr(run.result, name) for run in runs])
        for name in ("ttft_attainment", "itl_attainment")
    )
    name = "none" if budget_w is None else f"{budget_w:g} W"
    powers = " | ".join(f"{power / whole:.2f}" for power in (mean, peak, seconds))
    print(
        f"| {name} | {runs[0].result.policy} | {powers} | {ttft:.1f} % | {itl:.1f} % |",
        flush=True,
    )


if __name__ == "__main__":
    main()
