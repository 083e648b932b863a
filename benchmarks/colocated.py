"""The default scenario on four boards: two pairs, and four colocated instances in both modes.

Prints the table of docs/colocated.md: ``python benchmarks/colocated.py [SECONDS] [SEED]``.
"""

from __future__ import annotations

import sys

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

POLICIES = ("static-max", "static-low", "window", "best-fixed", "voltana")
CLUSTERS = (
    ("2P2D", {"prefill": 2, "decode": 2}, False),
    ("4C, prompts first", {"colocated": 4}, False),
    ("4C, mixed batches", {"colocated": 4}, True),
)


def main(duration_s: float = 120.0, seed: int = 0) -> None:
    """Run and print all of it."""
    print("| cluster | policy | energy (kJ) | saved | TTFT kept | ITL kept | tokens kept | clock |")
    print("|---|---|---|---|---|---|---|---|")
    for label, cluster, mixed in CLUSTERS:
        scenario = load_scenario(
            None,
            {
                "policies": list(POLICIES),
                "seed": seed,
                "cluster": cluster,
                "engine": {"mixed_chunk": mixed},
                "workload": {"duration_s": duration_s},
            },
        )
        for run in compare(scenario).runs:
            r = run.result
            clocks = (r.prefill_clock_mhz, r.decode_clock_mhz, r.colocated_clock_mhz)
            shown = "/".join(f"{mhz:.0f}" for mhz in clocks if mhz > 0)
            print(
                f"| {label} | {r.policy} | {r.energy_j / 1e3:.1f} "
                f"| {r.energy_saved_vs_static_max:.1%} | {r.ttft_attainment:.2%} "
                f"| {r.itl_attainment:.2%} | {r.itl_token_attainment:.2%} | {shown} |",
                flush=True,
            )


if __name__ == "__main__":
    given = [float(text) for text in sys.argv[1:]]
    main(*given[:1], *(int(seed) for seed in given[1:2]))
