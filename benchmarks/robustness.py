"""What the default policy keeps when the cluster misbehaves.

Run as ``python -m benchmarks.robustness``: a sweep, parallel and resumable after a kill. Each case
is compared with the fastest clock in the same case. "certified over budget" counts certified
iterations that took longer than their budget, and "allowed" is the bound of docs/guarantee.md,
theorem 1, summed over the instances. For a slowed instance the share of its iterations within the
ITL threshold is given for the 500 iterations after the slowdown and for those after them, of the
first seed, which is run once more for it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sweep import COLUMNS
from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import LocalWorkers, Plan, make_plan, run_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.evaluation.compare import PolicyRun
    from voltana.evaluation.sweep.work import Row

POLICIES = ("static-max", "voltana-v0.1", "voltana")
SLOWED, SLOWED_AT_S, PAUSED_AT_S = "decode-0", 40.0, 80.0
RECOVERY_ITERATIONS = 500
DURATION_S = 120.0

SLOW_BACKEND = {"instance": SLOWED, "from_s": SLOWED_AT_S, "factor": 1.4}
SLOW_HOST = {"instance": SLOWED, "from_s": PAUSED_AT_S, "pause_s": 0.004}

CASES: Mapping[str, Mapping[str, object]] = {
    "calm": {},
    "decode-0 x1.4 from 40 s": {"disturbance": [SLOW_BACKEND]},
    "and 4 ms more whatever the clock from 80 s": {"disturbance": [SLOW_BACKEND, SLOW_HOST]},
    "prefill-0 x1.4 from 40 s": {"disturbance": [{**SLOW_BACKEND, "instance": "prefill-0"}]},
    "latency noise 10 %": {"engine": {"latency_noise": 0.1}},
    "latency noise 20 %": {"engine": {"latency_noise": 0.2}},
    "latency noise 30 %": {"engine": {"latency_noise": 0.3}},
    "power sensor noise 20 %": {"engine": {"sensor_noise": 0.2}},
    "settling 5 ms": {"engine": {"settle_s": 0.005}},
    "settling 50 ms": {"engine": {"settle_s": 0.05}},
    "settling 200 ms": {"engine": {"settle_s": 0.2}},
    "bursts (gamma, CV 4)": {"workload": {"arrival": "gamma", "cv": 4.0}},
}


def tables(case: Mapping[str, object], workload: Mapping[str, object]) -> dict[str, Any]:
    """A case as a scenario."""
    made = {"policies": list(POLICIES), "workload": workload, **case}
    return {**made, "workload": {**workload, **case.get("workload", {})}}  # type: ignore[dict-item]


def measured(
    workload: Mapping[str, object], seeds: Sequence[int], folder: Path, processes: int
) -> dict[str, list[Row]]:
    """The rows of each case: all seeds, and every policy of each; what is kept is not run again."""
    plans = {
        name: make_plan(tables(case, workload), {"seed": list(seeds)})
        for name, case in CASES.items()
    }
    points = {point.key: point for plan in plans.values() for point in plan.points}
    outcome = run_sweep(Plan(points=tuple(points.values())), folder, LocalWorkers(processes))
    if outcome.failures:
        raise SystemExit("\n".join(outcome.failures.values()))
    return {
        name: [row for row in outcome.rows if row["run"] in {p.key for p in plan.points}]
        for name, plan in plans.items()
    }


def recoveries(case: Mapping[str, object], workload: Mapping[str, object], seed: int) -> list[str]:
    """`recovery` of each policy; empty where the slowed instance is not disturbed."""
    disturbances = case.get("disturbance", [])
    assert isinstance(disturbances, list)
    if not disturbances or disturbances[0]["instance"] != SLOWED:
        return [""] * len(POLICIES)
    scenario = load_scenario(None, {**tables(case, workload), "seed": seed})
    runs = compare(scenario, record_timelines=True).runs
    return [recovery(run, disturbances, scenario.cluster.slo.itl_s) for run in runs]


def recovery(run: PolicyRun, disturbances: Sequence[Mapping[str, object]], itl_s: float) -> str:
    """Iterations kept by the slowed instance: just after each slowdown, and later."""
    timeline = next(i for i in run.record.instances if i.instance == SLOWED).timeline
    kept = timeline.latency_s <= itl_s
    starts = [*(int(np.searchsorted(timeline.start_s, d["from_s"])) for d in disturbances)]
    ends = [*starts[1:], int(np.searchsorted(timeline.start_s, DURATION_S))]
    parts = []
    for start, end in zip(starts, ends, strict=True):
        middle = min(start + RECOVERY_ITERATIONS, end)
        parts += [f"{_percent(kept[start:middle])} then {_percent(kept[middle:end])}"]
    return ", ".join(parts)


def _percent(kept: np.ndarray) -> str:
    return f"{100 * kept.mean():.1f}" if len(kept) else "-"


def lines(name: str, rows: Sequence[Row], after: Sequence[str]) -> list[str]:
    """One line a policy: means over the seeds, and sums of what is counted."""
    made = []
    for policy, recovered in zip(POLICIES, after, strict=True):
        own = [row for row in rows if row["policy"] == policy]
        percent = " | ".join(
            f"{100 * statistics.fmean(row[column] for row in own):.2f}" for column in COLUMNS
        )
        accounts = [row["guarantee"] for row in own if row["guarantee"] is not None]
        sums = [f"{sum(account[key] for account in accounts):.0f}" for key in ("violated", "bound")]
        promised = " / ".join(sums) if accounts else ""
        made.append(f"| {name} | {policy} | {percent} | {promised} | {recovered} |")
    return made


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="sharegpt")
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/robustness"))
    given = parser.parse_args()
    workload = {"name": given.workload, "rate_rps": given.rate, "duration_s": DURATION_S}
    figures = measured(workload, given.seeds, given.out, given.processes)
    print(
        "| case | policy | saved % | TTFT % | ITL % | ITL of tokens % | certified over budget / "
        f"allowed | {SLOWED} kept: {RECOVERY_ITERATIONS} iterations, then % |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for name, case in CASES.items():
        after = recoveries(case, workload, given.seeds[0])
        print("\n".join(lines(name, figures[name], after)), flush=True)


if __name__ == "__main__":
    main()
