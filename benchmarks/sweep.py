"""Runs policies over several seeds and averages their figures; shared by the benchmarks.

`swept` runs on every core and goes on where it was killed; its policies come from a function that
the workers import.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from voltana.evaluation.compare import compare
from voltana.evaluation.scenario import load_scenario
from voltana.evaluation.sweep import LocalWorkers, make_plan, run_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from voltana.evaluation.metrics import Result
    from voltana.policy import Policy

ATTAINMENTS = ("ttft_attainment", "itl_attainment", "itl_token_attainment")
COLUMNS = ("energy_saved_vs_static_max", *ATTAINMENTS)
PERCENT_HEADER = "saved % | TTFT % | ITL % | ITL of tokens %"

Figures = dict[str, float]


def results(
    policies: Mapping[str, Policy], seeds: Sequence[int], flags: Mapping[str, object]
) -> dict[str, list[Result]]:
    """The results of each policy, one a seed.

    Args:
        policies: By the names under which their results are wanted.
        seeds: Of the workload and of all noise.
        flags: Tables of the scenario.
    """
    made: dict[str, list[Result]] = defaultdict(list)
    for seed in seeds:
        scenario = load_scenario(None, {"policies": ["static-max"], "seed": seed, **flags})
        scenario = dataclasses.replace(scenario, policies=policies)
        for run in compare(scenario).runs:
            made[run.result.policy].append(run.result)
    return dict(made)


def swept(
    folder: Path, policy_source: str, policies: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, float, str], Figures]:
    """Mean of `COLUMNS` over the seeds, by workload, rate and policy, in the order of the rows.

    Args:
        folder: Of the sweep; the same call goes on with what it holds.
        policy_source: ``MODULE:FUNCTION`` that makes each of `policies` by name.
        policies: What every row compares.
        rows: Scenario fields, seeds among them.

    Raises:
        SystemExit: If a scenario failed.
    """
    plan = make_plan({"policies": list(policies)}, None, rows, policy_source=policy_source)
    outcome = run_sweep(plan, folder, LocalWorkers())
    if outcome.failures:
        raise SystemExit("\n".join(outcome.failures.values()))
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = defaultdict(list)
    for row in outcome.rows:
        groups[row["workload.name"], row["workload.rate_rps"], row["policy"]].append(row)
    return {
        key: {column: statistics.fmean(row[column] for row in same) for column in COLUMNS}
        for key, same in groups.items()
    }


def cells(row: Figures) -> str:
    """The figures in per cent, as cells of a Markdown table."""
    return " | ".join(f"{100 * row[column]:.2f}" for column in COLUMNS)
