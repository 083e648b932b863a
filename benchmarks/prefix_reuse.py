"""What prefix caches save on a recorded trace, and what routing by affinity adds to that.

Run as ``python -m benchmarks.prefix_reuse [--colocated 6]``. Serves a stretch of Mooncake's trace
with shared prefixes (``../shared/data/mooncake-synthetic``) with and without caches, under the
default router of prompts and under `PrefixAffinity`, in KV memory of two sizes; on pairs, or on
colocated instances. Skips where the trace is absent.
"""

from __future__ import annotations

import argparse

from tools.calibration.data import DATA
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

TRACE = DATA / "mooncake-synthetic" / "synthetic_trace_hash_ids.jsonl.gz"
POLICIES = ("static-max", "voltana", "voltana-affinity")
HARDWARE = ("h100-sxm", "h200-sxm")
HEADER = (
    "board", "caches", "policy", "found %", "prefill kJ", "all kJ", "TTFT s p50/p99", "TTFT kept %",
    "ITL kept %",
)  # fmt: skip
PAIRS = {"prefill": 4, "decode": 2}


def rows(
    hardware: str, *, caches: bool, colocated: int, mixed: bool, duration_s: float, rate_rps: float
) -> list[list[str]]:
    """One row a policy; all serve the same requests to the same instant."""
    alone = {"prefill": 0, "decode": 0, "colocated": colocated}
    tables = {
        "policies": list(POLICIES if caches else POLICIES[:2]),
        "cluster": {"hardware": hardware, **(alone if colocated else PAIRS)},
        "slo": {"ttft_ms": 2000.0},
        "trace": {"file": str(TRACE), "rate_rps": rate_rps, "duration_s": duration_s},
        "engine": {"prefix_cache": caches, "mixed_chunk": mixed},
    }
    found = []
    for run in compare(load_scenario(None, tables)).runs:
        result = run.result
        found.append(
            [
                hardware,
                "on" if caches else "off",
                result.policy,
                f"{100 * result.prefix_hit_rate:.1f}" if caches else "",
                "" if colocated else f"{result.prefill_energy_j / 1e3:.1f}",
                f"{result.energy_j / 1e3:.1f}",
                f"{result.ttft_p50_s:.2f} / {result.ttft_p99_s:.2f}",
                f"{100 * result.ttft_attainment:.1f}",
                f"{100 * result.itl_attainment:.1f}",
            ]
        )
    return found


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=float, default=150.0, help="recorded seconds")
    parser.add_argument("--rate", type=float, default=3.0, help="requests/s")
    parser.add_argument("--hardware", nargs="+", default=list(HARDWARE), help="boards")
    parser.add_argument("--colocated", type=int, default=0, help="so many instead of pairs")
    parser.add_argument("--mixed", action="store_true", help="decode beside prompts")
    given = parser.parse_args()
    if not TRACE.exists():
        print(f"skipped: {TRACE} is absent")
        return
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for hardware in given.hardware:
        for caches in (True, False):
            made = rows(
                hardware,
                caches=caches,
                colocated=given.colocated,
                mixed=given.mixed,
                duration_s=given.duration,
                rate_rps=given.rate,
            )
            for row in made:
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
