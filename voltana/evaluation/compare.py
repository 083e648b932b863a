"""Runs policies over the same trace, and integrates the energy of all to the same instant."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from voltana.evaluation.best_fixed import REFERENCE, BestFixed
from voltana.evaluation.budget_floor import check_budget
from voltana.evaluation.metrics import measure
from voltana.evaluation.reasons import counted
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.policies.users_own import blame

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.controllers.power_budget import PowerBudget
    from voltana.evaluation.best_fixed import Choice
    from voltana.evaluation.metrics import Result
    from voltana.evaluation.reasons import Reasons
    from voltana.evaluation.scenario import Scenario
    from voltana.plant.record import RunRecord
    from voltana.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyRun:
    """One policy's run.

    Attributes:
        result: Its figures.
        record: What they were measured from.
        choice: What was searched for this trace; None of policies that were not.
        reasons: What bound its decisions, by role; empty without timelines.
    """

    result: Result
    record: RunRecord
    choice: Choice | None = None
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All runs over one trace.

    Attributes:
        scenario: What was run.
        runs: One per policy, in the order asked for.
        reference: The run that savings are measured against; one of `runs` if it was asked for.
    """

    scenario: Scenario
    runs: tuple[PolicyRun, ...]
    reference: PolicyRun


def compare(
    scenario: Scenario,
    *,
    record_timelines: bool = False,
    progress: Callable[[str, float, int], None] | None = None,
    look: Callable[[str, Simulation], None] | None = None,
) -> Comparison:
    """Run every policy of a scenario.

    The reference policy runs too if it was not asked for. The common end is the last completion of
    the slowest policy: a policy that finishes early idles on until then, and pays for it.

    Args:
        scenario: What to run.
        record_timelines: Whether to keep a row for each iteration, for the plots.
        progress: Called now and then with policy, simulated seconds and finished requests.
        look: Called as often, with policy and simulation, to read what was found so far.
    """
    policies = dict(scenario.policies)
    policies.setdefault(REFERENCE, get_policy(REFERENCE))
    check_budget(scenario)
    simulations: dict[str, Simulation] = {}
    told: dict[str, _Told] = {}
    for name, given in policies.items():
        simulations[name], told[name] = _simulated(
            scenario, name, given, counts=record_timelines, progress=progress, look=look
        )
    records = _records(simulations)
    reference_energy_j = records[REFERENCE].energy_j()
    runs = {
        name: PolicyRun(
            result=measure(
                name,
                record,
                scenario.cluster.slo,
                reference_energy_j=reference_energy_j,
                wall_s=told[name].wall_s,
                budget=scenario.budget,
                ledger=told[name].ledger,
            ),
            record=record,
            choice=told[name].choice,
            reasons=told[name].reasons,
        )
        for name, record in records.items()
    }
    return Comparison(
        scenario=scenario,
        runs=tuple(runs[name] for name in scenario.policies),
        reference=runs[REFERENCE],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Told:
    """What is known of a simulation beside its record.

    Attributes:
        wall_s: Wall-clock time that it took, the search for its policy included.
        choice: What was searched; None where nothing was.
        ledger: What divided its power budget; None without one.
        reasons: What bound its decisions, by role; empty where they were not counted.
    """

    wall_s: float
    choice: Choice | None
    ledger: PowerBudget | None
    reasons: Reasons


def _simulated(
    scenario: Scenario,
    name: str,
    given: Policy | BestFixed,
    *,
    counts: bool,
    progress: Callable[[str, float, int], None] | None,
    look: Callable[[str, Simulation], None] | None,
) -> tuple[Simulation, _Told]:
    """A policy's simulation after its last completion; with timelines and reasons if `counts`."""
    started_s = perf_counter()
    if isinstance(given, BestFixed):
        choice = given.find(scenario, progress)
        policy = choice.policy
    else:
        choice, policy = None, given
    ledgers: list[PowerBudget] = []
    reasons: Reasons = {}
    with blame(name):
        configured = scenario.configured(policy, ledgers.append)
        simulation = Simulation(
            scenario.cluster,
            counted(configured, reasons) if counts else configured,
            scenario.trace,
            seed=scenario.file.seed,
            record_timeline=counts,
            plant=scenario.plant,
        )

        def report(simulated_s: float, finished: int) -> None:
            if progress is not None:
                progress(name, simulated_s, finished)
            if look is not None:
                look(name, simulation)

        simulation.run(report)
    return simulation, _Told(
        wall_s=perf_counter() - started_s,
        choice=choice,
        ledger=ledgers[-1] if ledgers else None,
        reasons=reasons,
    )


def _records(simulations: dict[str, Simulation]) -> dict[str, RunRecord]:
    """What was measured up to the end of the slowest; takes the simulations away one by one."""
    horizon_s = max(simulation.now_s for simulation in simulations.values())
    records: dict[str, RunRecord] = {}
    for name in list(simulations):
        simulation = simulations.pop(name)  # a finished run's memory goes to the next record
        with blame(name):
            simulation.extend_to(horizon_s)
        records[name] = simulation.record()
    return records
