"""Runs what a sweep's folder does not hold yet, and gathers what it holds then."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voltana.evaluation.best_fixed import MOST_RUNS, NAME
from voltana.evaluation.sweep.fields import scenario_fields
from voltana.evaluation.sweep.store import SweepStore
from voltana.evaluation.sweep.work import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from voltana.config import ScenarioFile
    from voltana.evaluation.sweep.plan import Plan, Point
    from voltana.evaluation.sweep.work import Row, Workers

    Progress = Callable[[int, int, int], None]
    """Called with scenarios ended (kept from before included), all of them, and those failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOutcome:
    """What a sweep holds after it ran.

    Attributes:
        rows: One a scenario and policy, in the order of the plan: ``run`` (what identifies the
            scenario), every scenario field by its dotted name, and the figures of `Result`. What is
            not finite is None.
        failures: Why scenarios failed, by key.
        ran: Scenarios that were run now.
    """

    rows: tuple[Row, ...]
    failures: Mapping[str, str]
    ran: int


def run_sweep(
    plan: Plan,
    folder: Path,
    workers: Workers,
    progress: Progress | None = None,
    *,
    ended: Callable[[SweepOutcome], object] | None = None,
) -> SweepOutcome:
    """Run the scenarios of a plan that a folder does not hold yet.

    Each is kept as soon as it has ended, so that the same call goes on where it was killed. A
    scenario that fails is told and not kept; the others go on.

    Args:
        plan: What to run.
        folder: Where records are kept.
        workers: Where scenarios run.
        progress: See `Progress`.
        ended: Called with what came out while no other sweep can have the folder: whoever writes
            there does it in this.

    Raises:
        ConfigError: If the folder cannot be used, or a record cannot be written.
    """
    with contextlib.closing(SweepStore(folder)) as store:
        store.begin(plan)
        scenarios = {p.key: p.file.model_dump(mode="json", exclude_none=True) for p in plan.points}
        found = {key: rows for key in scenarios if (rows := store.rows(key)) is not None}
        tasks = [
            Task(
                key=point.key,
                scenario=scenarios[point.key],
                policy_source=plan.policy_source,
                digests=point.digests,
            )
            for point in sorted(plan.points, key=_cost, reverse=True)
            if point.key not in found
        ]
        failures: dict[str, str] = {}
        if progress is not None:
            progress(len(found), len(scenarios), 0)
        with contextlib.closing(workers.run(tasks)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                if outcome.error:
                    failures[outcome.key] = outcome.error
                else:
                    store.keep(outcome.key, scenarios[outcome.key], outcome.rows)
                    found[outcome.key] = outcome.rows
                if progress is not None:
                    progress(len(found) + len(failures), len(scenarios), len(failures))
        made = SweepOutcome(
            rows=tuple(
                row for point in plan.points for row in _flat(point, found.get(point.key, ()))
            ),
            failures=failures,
            ran=len(tasks) - len(failures),
        )
        if ended is not None:
            ended(made)
        return made


def _flat(point: Point, rows: tuple[Row, ...]) -> list[Row]:
    described = {"run": point.key, **described_by(point.file)}
    return [{**described, **row} for row in rows]


def described_by(file: ScenarioFile) -> dict[str, Any]:
    """Every field of a scenario by its dotted name; None where it has none."""
    tables = file.model_dump(mode="json")
    made = {}
    for name in scenario_fields():
        table, _, key = name.rpartition(".")
        inside = tables.get(table) if table else tables
        made[name] = None if inside is None else inside.get(key)
    return made


def _cost(point: Point) -> float:
    """What a scenario costs, roughly and relatively: the long ones go first, the short ones fill.

    Of a trace the length is not known here, so that it counts as long.
    """
    file = point.file
    policies = sum(MOST_RUNS if name == NAME else 1 for name in file.policies)
    workload = file.workload
    return policies * (1e9 if workload is None else workload.rate_rps * workload.duration_s)
