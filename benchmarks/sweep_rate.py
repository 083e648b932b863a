"""How many scenarios a sweep finishes, against two programs that run half of them each.

Run as ``python -m benchmarks.sweep_rate``. Both run the same scenarios, one after the other and
again in the other order, on two cores; the other way is a plain loop in each of two fresh
interpreters that keeps nothing. What is compared is wall time with starting, checking, records and
Parquet included. The ratio is taken round by round, so that what else the machine does falls on
both; the median of the ratios is at least 0.9 where a sweep costs little of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCENARIO = {"policies": ["static-max", "static-low"], "cluster": {"prefill": 1, "decode": 1}}
LOOP = """
import json, sys
from voltana.config import parse_scenario
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import resolve
for tables in json.loads(sys.stdin.read()):
    compare(resolve(parse_scenario(tables)))
"""


def tables(seed: int, duration_s: float) -> dict[str, Any]:
    """One scenario."""
    return {**SCENARIO, "seed": seed, "workload": {"rate_rps": 20.0, "duration_s": duration_s}}


def independent_s(runs: int, duration_s: float) -> float:
    """Wall time of two processes with half of the scenarios each."""
    began_s = time.perf_counter()
    processes = []
    for half in range(2):
        process = subprocess.Popen([sys.executable, "-c", LOOP], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        asked = [tables(seed, duration_s) for seed in range(half, runs, 2)]
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        processes.append(process)
    if any(process.wait() for process in processes):
        raise SystemExit("a loop failed")
    return time.perf_counter() - began_s


def sweep_s(runs: int, duration_s: float) -> float:
    """Wall time of `voltana sweep` over the same scenarios."""
    grid = (f"seed=0..{runs - 1}", "rate=20", f"duration={duration_s:g}", "pd=1:1")
    axes = [part for axis in grid for part in ("--grid", axis)]
    policies = ",".join(SCENARIO["policies"])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "voltana", "sweep", *axes, "--policy", policies]
        began_s = time.perf_counter()
        subprocess.run(
            [*command, "--workers", "2", "--out", str(Path(folder) / "out")],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - began_s


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--duration", type=float, default=30.0, help="seconds of arrivals")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    ratios = []
    for place in range(asked.rounds):
        ways = (independent_s, sweep_s) if place % 2 == 0 else (sweep_s, independent_s)
        took_s = {way: way(asked.runs, asked.duration) for way in ways}
        ratios.append(took_s[independent_s] / took_s[sweep_s])
        print(
            f"two processes {took_s[independent_s]:.1f} s, sweep {took_s[sweep_s]:.1f} s: "
            f"{ratios[-1]:.3f}",
            flush=True,
        )
    print(
        f"{statistics.median(ratios):.3f} x the rate of two independent processes "
        f"({min(ratios):.3f} to {max(ratios):.3f}; {asked.runs} scenarios, {asked.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
