"""Refuses a power budget that does not cover a cluster at its lowest clocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.evaluation.best_fixed import REFERENCE, BestFixed
from voltana.evaluation.budget_file import row_below
from voltana.plant.simulation import Simulation
from voltana.policies import get_policy
from voltana.policies.power_budget import least_budget_w
from voltana.policies.users_own import blame

if TYPE_CHECKING:
    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.evaluation.scenario import Scenario
    from voltana.policy import Policy


def check_budget(scenario: Scenario) -> None:
    """Refuse a budget under which a policy, or the reference, could not run.

    What a cluster needs follows from its boards and the policy, not from what arrives.

    Raises:
        ConfigError: If the least of the budget over time does not cover all instances.
    """
    if scenario.budget is None:
        return
    policies = dict(scenario.policies)
    policies.setdefault(REFERENCE, get_policy(REFERENCE))
    for name, policy in policies.items():
        if not isinstance(policy, BestFixed):
            _check(scenario, scenario.budget, name, policy)


def _check(scenario: Scenario, budget: BudgetSchedule, name: str, policy: Policy) -> None:
    with blame(name):
        least_w = least_budget_w(
            policy,
            lambda recording: Simulation(
                scenario.cluster,
                scenario.overridden(recording),
                scenario.trace,
                plant=scenario.plant,
            ),
        )
    if least_w > budget.least_w:
        why = (
            f"the {scenario.cluster.counted(' and ')} instances at their lowest clock under {name}"
        )
        path, needed_w = scenario.file.power_budget_file, math.ceil(least_w)
        if path is not None:
            raise row_below(path, budget, needed_w, why)
        raise invalid(
            "power_budget_w",
            budget.least_w,
            f"at least {needed_w} W: {why}",
            "Raise --power-budget, or run fewer instances.",
        )
