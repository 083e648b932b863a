"""What decode routing is worth: the same control with three decode routers.

    python -m benchmarks.decode_routing --rates 10,30,50,70 --seeds 3

Energy is a ratio to that of `LeastLoaded` in the same run, averaged over the seeds, with the lowest
and the highest; attainment is the mean of the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, Scenario, load_scenario
from voltana.policies.named import get_policy, with_routing
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded

EVEN = "LeastLoaded"
NAMES = {EVEN: EVEN, "voltana": "MarginalEnergy", "voltana-mdp": "MDPRouter"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="10,30,50,70")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--decode", type=int, default=2)
    options = parser.parse_args()
    print("| requests/s | router | energy | of decode | TTFT kept | ITL kept | tokens kept |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for rate in map(float, options.rates.split(",")):
        runs = [
            compare(_scenario(rate, seed, options.duration, options.decode))
            for seed in range(options.seeds)
        ]
        for policy, router in NAMES.items():
            _print_row(rate, router, [_results(run) for run in runs], policy)


def _scenario(rate: float, seed: int, duration_s: float, decode: int) -> Scenario:
    scenario = load_scenario(
        None,
        {
            "policies": ["voltana", "voltana-mdp"],
            "seed": seed,
            "cluster": {"decode": decode},
            ARRIVALS: {"rate_rps": rate, "duration_s": duration_s},
        },
    )
    even = with_routing(
        get_policy("voltana"),
        prefill=lambda _seed: FillUp(),
        decode=lambda _seed: LeastLoaded(),
        name=EVEN,
        summary="voltana, with the fewest requests first",
    )
    return dataclasses.replace(scenario, policies={EVEN: even, **scenario.policies})


def _results(comparison):
    return {run.result.policy: run.result for run in comparison.runs}


def _print_row(rate, router, seeds, policy) -> None:
    energy = [r[policy].energy_j / r[EVEN].energy_j for r in seeds]
    decode = [r[policy].decode_energy_j / r[EVEN].decode_energy_j for r in seeds]
    kept = [
        100 * np.mean([getattr(r[policy], name) for r in seeds])
        for name in ("ttft_attainment", "itl_attainment", "itl_token_attainment")
    ]
    print(
        f"| {rate:g} | {router} | {np.mean(energy):.3f} ({min(energy):.3f}-{max(energy):.3f}) | "
        f"{np.mean(decode):.3f} | " + " | ".join(f"{share:.1f} %" for share in kept) + " |",
        flush=True,
    )


if __name__ == "__main__":
    main()
