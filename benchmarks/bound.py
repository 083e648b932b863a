"""How much of the saving that is possible the default policy reaches, rate by rate.

Llama-3.1-8B on A100, two prefill and two decode instances. Run as ``python -m benchmarks.bound``.
The saving that is possible is that of a clairvoyant lower bound (docs/bound.md), at an attainment
no more than a point below static-max. Losses are shares of what static-max used.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from voltana.evaluation.bound import bound_comparison
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

RATES_RPS = {
    "sharegpt": (30, *range(50, 101, 10)),
    "lmsys": (*range(75, 111, 5), 120, 130),
}
POLICY = "voltana"


def main() -> None:
    """Print the table as Markdown, then the mean share over all rates where the bound applies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=sorted(RATES_RPS), action="append")
    parser.add_argument("--rates", type=float, nargs="+", help="requests/s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--policy", default=POLICY)
    given = parser.parse_args()
    print(
        "| workload | requests/s | seed | bound saves % | policy saves % | share % | "
        "lost in prefill % | in decode % | slack % | kept |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    shares: dict[str, list[float]] = defaultdict(list)
    for workload in given.workload or RATES_RPS:
        for rate_rps in given.rates or RATES_RPS[workload]:
            for seed in given.seeds:
                row, share = figures(workload, rate_rps, seed, given.duration, given.policy)
                print(f"| {workload} | {rate_rps:g} | {seed} | {row} |", flush=True)
                if share is not None:
                    shares[workload].append(share)
    for workload, made in shares.items():
        print(
            f"\n{workload}: {100 * statistics.fmean(made):.1f} % of the bound's saving on average"
        )


def figures(
    workload: str, rate_rps: float, seed: int, duration_s: float, policy: str
) -> tuple[str, float | None]:
    """A row of the table, and the share of the bound's saving; None where there is no bound."""
    table = {"name": workload, "rate_rps": rate_rps, "duration_s": duration_s}
    made = compare(load_scenario(None, {"policies": [policy], "seed": seed, "workload": table}))
    report = bound_comparison(made)
    if report.bound is None:
        return "does not apply | | | | | | ", None
    gap, whole_j = report.policies[0], made.reference.result.energy_j
    numbers = (
        report.saving,
        gap.result.energy_saved_vs_static_max,
        gap.share_of_saving,
        gap.prefill_gap_j / whole_j,
        gap.decode_gap_j / whole_j,
        report.bound.slack_j / whole_j,
    )
    cells = [f"{100 * number:.2f}" for number in numbers]
    return " | ".join((*cells, "yes" if gap.covered else "no")), gap.share_of_saving


if __name__ == "__main__":
    main()
