"""Saving against attainment, by sweeping the latency target that each policy aims at.

Every policy is given the thresholds times a factor, and judged by the true ones. Run as
``python -m benchmarks.pareto``; it prints the points, says at which rates the front of `voltana`
dominates those of the published system and of the window governor, and draws them.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sweep import swept
from voltana.policies.named import get_policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.sweep import Figures
    from voltana.policy import InstanceContext, InstancePolicy, Policy

OURS, OTHERS = "voltana", ("voltana-v0.1", "window")
FACTORS = (0.5, 0.65, 0.8, 0.9, 1.0, 1.15, 1.35)
RATES_RPS = {"sharegpt": (30.0, 50.0, 70.0, 80.0), "lmsys": (75.0, 90.0)}
SHOWN_FROM = 80.0
"""Attainment in per cent at which the plots begin: nobody wants less."""

TOLERANCE = 0.002
"""Two points this close in both figures count as the same."""

Point = tuple[float, float]


def aiming_at(policy: Policy, factor: float) -> Policy:
    """`policy`, told thresholds that are `factor` times the true ones."""

    def control(context: InstanceContext) -> InstancePolicy:
        slo = dataclasses.replace(
            context.slo, ttft_s=context.slo.ttft_s * factor, itl_s=context.slo.itl_s * factor
        )
        return policy.control(dataclasses.replace(context, slo=slo))

    return dataclasses.replace(policy, control=control)


def aimed(name: str) -> Policy:
    """The policy of ``NAME xFACTOR``, for the workers of a sweep."""
    policy, _, factor = name.rpartition(" x")
    return aiming_at(get_policy(policy), float(factor))


def fronts_of(
    figures: Mapping[tuple[str, float, str], Figures],
) -> dict[tuple[str, float], dict[str, list[Point]]]:
    """Attainment (the least of TTFT and ITL by request) and saving, by place and by policy."""
    made: dict[tuple[str, float], dict[str, list[Point]]] = {}
    for (workload, rate_rps, label), row in figures.items():
        kept = min(row["ttft_attainment"], row["itl_attainment"])
        front = made.setdefault((workload, rate_rps), {}).setdefault(label.rsplit(" x", 1)[0], [])
        front.append((kept, row["energy_saved_vs_static_max"]))
    return made


def undominated(ours: Sequence[Point], theirs: Sequence[Point]) -> list[Point]:
    """Points of `theirs` that none of `ours` equals or betters in both figures."""
    return [
        (kept, saved)
        for kept, saved in theirs
        if not any(k >= kept - TOLERANCE and s >= saved - TOLERANCE for k, s in ours)
    ]


def draw(fronts: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> None:
    """One panel a workload and rate."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  (slow to import, and not always wanted)

    figure, axes = plt.subplots(2, -(-len(fronts) // 2), figsize=(12, 7), squeeze=False)
    for axis, (title, policies) in zip(axes.flat, fronts.items(), strict=False):
        for name, front in policies.items():
            kept, saved = zip(*sorted(front), strict=True)
            axis.plot([100 * k for k in kept], [100 * s for s in saved], "o-", ms=4, label=name)
        axis.set(title=title, xlabel="attainment (worse of TTFT and ITL), %", ylabel="saved, %")
        axis.set_xlim(left=max(axis.get_xlim()[0], SHOWN_FROM))
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the points as Markdown and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of arrivals")
    parser.add_argument("--out", type=Path, default=Path("out/pareto.png"))
    given = parser.parse_args()
    rows = [
        {"workload": workload, "rate": rate_rps, "duration": given.duration, "seed": seed}
        for workload, rates_rps in RATES_RPS.items()
        for rate_rps in rates_rps
        for seed in given.seeds
    ]
    labels = [f"{name} x{factor:g}" for name in (OURS, *OTHERS) for factor in FACTORS]
    figures = swept(given.out.with_suffix(""), "benchmarks.pareto:aimed", labels, rows)
    fronts = {}
    print("| workload | requests/s | policy | " + " | ".join(f"x{f:g}" for f in FACTORS), end="")
    print(" | not dominated |\n|---|---:|---|" + "---:|" * len(FACTORS) + "---|")
    for (workload, rate_rps), made in fronts_of(figures).items():
        fronts[f"{workload}, {rate_rps:g} requests/s"] = made
        for name, front in made.items():
            left = [] if name == OURS else undominated(made[OURS], front)
            row = " | ".join(f"{100 * k:.1f} / {100 * s:.1f}" for k, s in front)
            rest = ", ".join(f"{100 * k:.1f} / {100 * s:.1f}" for k, s in left)
            verdict = "" if name == OURS else rest or "none"
            print(f"| {workload} | {rate_rps:g} | {name} | {row} | {verdict} |")
    draw(fronts, given.out)
    print(f"\nCells: attainment / saving, %. Drawn to {given.out}.")


if __name__ == "__main__":
    main()
