"""What the default policy keeps when the cluster misbehaves.

Run as ``python -m benchmarks.robustness``. Each case is compared with the fastest clock in the same
case. "certified over budget" counts certified iterations that took longer than their budget, and
"allowed" is the bound of docs/guarantee.md, theorem 1, summed over the instances. For a slowed
instance the share of its iterations within the ITL threshold is given for the 500 iterations after
the slowdown and for those after them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.evaluation.compare import Comparison, PolicyRun

POLICIES = ("static-max", "voltana-v0.1", "voltana")
SLOWED, SLOWED_AT_S, PAUSED_AT_S = "decode-0", 40.0, 80.0
RECOVERY_ITERATIONS = 500

SLOW_BACKEND = {"instance": SLOWED, "from_s": SLOWED_AT_S, "factor": 1.4}
SLOW_HOST = {"instance": SLOWED, "from_s": PAUSED_AT_S, "pause_s": 0.004}

CASES: Mapping[str, Mapping[str, object]] = {
    "calm": {},
    "decode-0 x1.4 from 40 s": {"disturbance": [SLOW_BACKEND]},
    "and 4 ms more whatever the clock from 80 s": {"disturbance": [SLOW_BACKEND, SLOW_HOST]},
    "prefill-0 x1.4 from 40 s": {"disturbance": [{**SLOW_BACKEND, "instance": "prefill-0"}]},
    "latency noise 20 %": {"engine": {"latency_noise": 0.2}},
    "power sensor noise 20 %": {"engine": {"sensor_noise": 0.2}},
    "settling 5 ms": {"engine": {"settle_s": 0.005}},
    "settling 50 ms": {"engine": {"settle_s": 0.05}},
    "settling 200 ms": {"engine": {"settle_s": 0.2}},
    "bursts (gamma, CV 4)": {"workload": {"arrival": "gamma", "cv": 4.0}},
}


def run(case: Mapping[str, object], workload: Mapping[str, object], seed: int) -> Comparison:
    """All policies through one case."""
    tables = dict(case)
    extra = tables.pop("workload", {})
    assert isinstance(extra, dict)
    flags = {"policies": list(POLICIES), "seed": seed, "workload": {**workload, **extra}, **tables}
    return compare(load_scenario(None, flags), record_timelines=True)


def recovery(run: PolicyRun, case: Mapping[str, object], itl_s: float) -> str:
    """Iterations kept by the slowed instance: just after each slowdown, and later."""
    disturbances = case.get("disturbance", [])
    assert isinstance(disturbances, list)
    if not disturbances or disturbances[0]["instance"] != SLOWED:
        return ""
    timeline = next(i for i in run.record.instances if i.instance == SLOWED).timeline
    kept = timeline.latency_s <= itl_s
    starts = [*(int(np.searchsorted(timeline.start_s, d["from_s"])) for d in disturbances)]
    ends = [*starts[1:], int(np.searchsorted(timeline.start_s, 120.0))]
    parts = []
    for start, end in zip(starts, ends, strict=True):
        middle = min(start + RECOVERY_ITERATIONS, end)
        parts += [f"{_percent(kept[start:middle])} then {_percent(kept[middle:end])}"]
    return ", ".join(parts)


def _percent(kept: np.ndarray) -> str:
    return f"{100 * kept.mean():.1f}" if len(kept) else "-"


def rows(name: str, case: Mapping[str, object], comparisons: Sequence[Comparison]) -> list[str]:
    """One row a policy: means over the seeds, and sums of what is counted."""
    made = []
    for index, policy in enumerate(POLICIES):
        runs = [comparison.runs[index] for comparison in comparisons]
        results = [run.result for run in runs]
        shares = [
            np.mean([getattr(result, column) for result in results])
            for column in (
                "energy_saved_vs_static_max", "ttft_attainment", "itl_attainment",
                "itl_token_attainment",
            )
        ]  # fmt: skip
        accounts = [result.guarantee for result in results if result.guarantee is not None]
        sums = [f"{sum(a[name] for a in accounts):.0f}" for name in ("violated", "bound")]
        promised = " / ".join(sums) if accounts else ""
        after = recovery(runs[0], case, comparisons[0].scenario.cluster.slo.itl_s)
        percent = " | ".join(f"{100 * share:.2f}" for share in shares)
        made.append(f"| {name} | {policy} | {percent} | {promised} | {after} |")
    return made


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="sharegpt")
    parser.add_argument("--rate", type=float, default=50.0, help="requests/s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    given = parser.parse_args()
    workload = {"name": given.workload, "rate_rps": given.rate, "duration_s": 120.0}
    print(
        "| case | policy | saved % | TTFT % | ITL % | ITL of tokens % | certified over budget / "
        f"allowed | {SLOWED} kept: {RECOVERY_ITERATIONS} iterations, then % |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for name, case in CASES.items():
        comparisons = [run(case, workload, seed) for seed in given.seeds]
        print("\n".join(rows(name, case, comparisons)), flush=True)


if __name__ == "__main__":
    main()
