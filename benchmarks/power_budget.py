"""What a power budget costs: power and attainment of three policies within ever smaller budgets.

    python -m benchmarks.power_budget --budgets 900,800,750,700 --seeds 3
    python -m benchmarks.power_budget --schedule 0:1200,15:760,30:1200

With ``--schedule`` a budget that changes with time is shared, or divided evenly over the instances.
Powers are shares of the budget, or of the boards' limits where there is none: the mean of the
seeds, and the worst second and 5 s of the worst seed.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.policies import get_policy, with_power_budget

POLICIES = ("static-max", "voltana-v0.1", "voltana")
BOARDS_W = 4 * 400.0
"""Four boards' power limits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", default="900,800,750,700")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=40.0)
    parser.add_argument("--schedule", help="SECONDS:WATTS with commas between")
    options = parser.parse_args()
    if options.schedule is not None:
        compare_shares(options)
        return
    print("| budget | policy | mean power | worst 5 s | worst second | TTFT kept | ITL kept |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for budget_w in (None, *map(float, options.budgets.split(","))):
        runs = [
            compare(_scenario(budget_w, options.rate, seed, options.duration)).runs
            for seed in range(options.seeds)
        ]
        for index in range(len(POLICIES)):
            _print_row(budget_w, [seed[index] for seed in runs])


def compare_shares(options) -> None:
    """Print what a budget over time keeps, shared and in even shares."""
    rows = [tuple(map(float, row.split(":"))) for row in options.schedule.split(",")]
    budget = BudgetSchedule(from_s=tuple(t for t, _ in rows), budget_w=tuple(w for _, w in rows))
    print("| policy | budget | mean power | worst second over budget | TTFT kept | ITL kept |")
    print("|---|---|---:|---:|---:|---:|")
    for name in POLICIES:
        gathered = {"even shares": [], "shared": []}
        for seed in range(options.seeds):
            base = _scenario(None, options.rate, seed, options.duration)
            instances = base.cluster.prefill + base.cluster.decode
            policies = {
                how: with_power_budget(get_policy(name), budget, even_over=count)
                for how, count in (("even shares", instances), ("shared", None))
            }
            for run in compare(dataclasses.replace(base, policies=policies)).runs:
                gathered[run.result.policy].append(run)
        for how, runs in gathered.items():
            over = max(_over(run.record.power_w, budget) for run in runs)
            mean_w = np.mean([run.result.mean_power_w for run in runs])
            kept = " | ".join(
                f"{100 * np.mean([getattr(run.result, column) for run in runs]):.2f} %"
                for column in ("ttft_attainment", "itl_attainment")
            )
            print(f"| {name} | {how} | {mean_w:.0f} W | {over:+.0f} W | {kept} |", flush=True)


def _over(power_w, budget) -> float:
    """Watts by which the worst second exceeds what held in it; negative where none does."""
    return max(
        watts
        - max(budget.least_until_w(second, second), budget.least_until_w(second + 1, second + 1))
        for second, watts in enumerate(power_w)
    )


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
