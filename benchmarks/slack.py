"""What spending the slack of requests saves, and what it costs, on several models and seeds.

Run as ``python -m benchmarks.slack``. Each seed serves the same requests under the policy `voltana`
without and with it (`slo.spending` 1 and 1.5), up to the same instant.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import ARRIVALS, load_scenario

if TYPE_CHECKING:
    from voltana.evaluation.metrics import Result

CASES = (
    ("llama-3.1-8b", 20.0, 65.0), ("llama-3.1-8b", 50.0, 65.0), ("llama-3.1-8b", 50.0, 20.0),
    ("llama-3.1-8b", 50.0, 14.0), ("qwen3-32b", 25.0, 65.0), ("qwen3-32b", 25.0, 35.0),
    ("ministral-3b", 60.0, 65.0), ("ministral-3b", 60.0, 10.0),
)  # fmt: skip
"""Model, requests/s, ITL threshold in milliseconds: usual ones, and ones that few clocks keep."""

SPENDING = (1.0, 1.5)
FIGURES = (
    "energy_saved_vs_static_max", "itl_token_attainment", "itl_attainment", "certified_share",
)  # fmt: skip
HEADER = (
    "model", "requests/s", "ITL ms", "saved %", "more, points", "tokens %", "more, points",
    "mean ITL, points", "certified, points",
)  # fmt: skip


def run(case: tuple[str, float, float], seed: int, duration_s: float, spending: float) -> Result:
    """The result of the policy `voltana`."""
    model, rate_rps, itl_ms = case
    flags = {
        "policies": ["static-max", "voltana"], "seed": seed, "cluster": {"model": model},
        ARRIVALS: {"rate_rps": rate_rps, "duration_s": duration_s},
        "slo": {"itl_ms": itl_ms, "spending": spending},
    }  # fmt: skip
    made = compare(load_scenario(None, flags))
    return next(run.result for run in made.runs if run.result.policy == "voltana")


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--duration", type=float, default=30.0, help="seconds of arrivals")
    given = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for case in CASES:
        pairs = [[run(case, n, given.duration, s) for s in SPENDING] for n in given.seeds]
        values = 100 * np.array([[[getattr(r, f) for f in FIGURES] for r in p] for p in pairs])
        usual, more = values[:, 0].mean(axis=0), (values[:, 1] - values[:, 0]).mean(axis=0)
        cells = (
            case[0], f"{case[1]:g}", f"{case[2]:g}", f"{usual[0]:.2f}", f"{more[0]:+.3f}",
            f"{usual[1]:.2f}", f"{more[1]:+.3f}", f"{more[2]:+.3f}", f"{more[3]:+.3f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
