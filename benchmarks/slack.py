"""What spending the slack of requests saves, and what it costs, on several models and seeds.

Run as ``python -m benchmarks.slack``. Each seed serves the same requests under the policy `voltana`
with and without it (`Slo.spending` 1.5), in one comparison up to the same instant.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.plant.simulation import Simulation  # noqa: F401
from voltana.slo import MOST_SPENDING

CASES = (
    ("llama-3.1-8b", 20.0), ("llama-3.1-8b", 50.0), ("llama-3.1-8b", 70.0),
    ("qwen3-32b", 25.0), ("qwen3-32b", 40.0), ("ministral-3b", 90.0),
)  # fmt: skip


def run(model, rate_rps, seed, duration_s, spending):
    flags = {
        "policies": ["static-max", "voltana"], "seed": seed, "cluster": {"model": model},
        ARRIVALS: {"rate_rps": rate_rps, "duration_s": duration_s},
    }  # fmt: skip
    scenario = load_scenario(None, flags)
    slo = dataclasses.replace(scenario.cluster.slo, spending=spending)
    cluster = dataclasses.replace(scenario.cluster, slo=slo)
    made = compare(dataclasses.replace(scenario, cluster=cluster))
    return next(run.result for run in made.runs if run.result.policy == "voltana")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--duration", type=float, default=60.0)
    given = parser.parse_args()
    print(
        "| model | requests/s | saved %, without | more saved, points | tokens %, without |"
        " tokens, points | mean ITL, points | certified, points |\n|" + "---|" * 8
    )
    for model, rate_rps in CASES:
        pairs = [
            [run(model, rate_rps, seed, given.duration, s) for s in (1.0, MOST_SPENDING)]
            for seed in given.seeds
        ]

        def mean(name, pairs=pairs):
            values = np.array([[100 * getattr(r, name) for r in pair] for pair in pairs])
            return values[:, 0].mean(), (values[:, 1] - values[:, 0])

        saved, more = mean("energy_saved_vs_static_max")
        tokens, fewer = mean("itl_token_attainment")
        _, itl = mean("itl_attainment")
        _, certified = mean("certified_share")
        cells = (
            model,
            f"{rate_rps:g}",
            f"{saved:.2f}",
            f"{more.mean():+.3f}",
            f"{tokens:.2f}",
            f"{fewer.mean():+.3f}",
            f"{itl.mean():+.3f}",
            f"{certified.mean():+.3f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
