"""Puts a power budget over all instances of a cluster, whatever policy controls them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voltana.controllers.budgeted import Budgeted
from voltana.controllers.even_shares import EvenShares
from voltana.controllers.lateness import Lateness
from voltana.controllers.marginal_worth import MarginalWorth
from voltana.controllers.power_budget import PowerBudget
from voltana.errors import unknown_name
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.linear_power import LinearPower
from voltana.values import Load, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.controllers.power_claim import Shares
    from voltana.policy import InstanceContext, InstancePolicy, Policy

SHARES: Mapping[str, Callable[[], Shares]] = {"worth": MarginalWorth, "even": EvenShares}
"""Ways to divide a budget, by the names that users give them."""

LOWEST_SHARE = 0.4
"""Lowest clock over the fastest: below it the voltage has long been at its floor, and power falls
by little more than latency rises."""

_PLENTY_W = 1e12
"""A budget that covers any cluster."""

MANY_TOKENS = 1 << 20
MANY_REQUESTS = 1 << 12


def with_power_budget(
    policy: Policy,
    budget_w: float | BudgetSchedule,
    *,
    shares: str = "worth",
    error: float = 0.05,
    on_ledger: Callable[[PowerBudget], object] | None = None,
) -> Policy:
    """The same policy within a budget; an instance that is built anew begins a new ledger.

    Args:
        policy: Decides what is wished for.
        budget_w: What all instances together may draw, always or by a schedule.
        shares: How it is divided: one of `SHARES`.
        error: By what share of it real power may exceed the predicted one once that was learned.
        on_ledger: Called with each ledger that is begun, to read its counts.

    Raises:
        ConfigError: If the budget is not above 0, or `shares` is unknown. When the instances are
            built: if it does not cover their power at the lowest clock.
    """
    if shares not in SHARES:
        raise unknown_name("power_shares", shares, list(SHARES))

    def begun() -> PowerBudget:
        made = PowerBudget(budget_w, SHARES[shares]())
        if on_ledger is not None:
            on_ledger(made)
        return made

    budget = begun()

    def control(context: InstanceContext) -> InstancePolicy:
        nonlocal budget
        if context.instance in budget.reserved_w:
            budget = begun()
        return _within(budget, policy.control(context), context, error)

    return dataclasses.replace(policy, control=control)


def least_budget_w(
    policy: Policy, build: Callable[[Policy], object], *, error: float = 0.05
) -> float:
    """The least budget that covers all instances of a cluster at their lowest clock.

    Args:
        policy: Decides what is wished for.
        build: Builds every instance of the cluster under the policy that it gets.
        error: As of `with_power_budget`.
    """
    budget = PowerBudget(_PLENTY_W)

    def control(context: InstanceContext) -> InstancePolicy:
        return _within(budget, policy.control(context), context, error)

    build(dataclasses.replace(policy, control=control))
    return sum(budget.floors_w.values())


def _within(
    budget: PowerBudget, made: InstancePolicy, context: InstanceContext, error: float
) -> InstancePolicy:
    power = CautiousPower(
        made.power
        or LinearPower(max_clock_mhz=context.table_mhz[-1], max_power_w=context.max_power_w)
    )
    levels_mhz = context.levels_mhz or _with_lower(made.levels_mhz, context.table_mhz)
    controller = Budgeted(
        made.controller,
        power,
        levels_mhz,
        budget,
        instance=context.instance,
        busiest=_busiest(context.role),
        error=error,
        lateness=_lateness(made, context),
    )
    return dataclasses.replace(made, controller=controller, levels_mhz=levels_mhz, power=power)


def _lateness(made: InstancePolicy, context: InstanceContext) -> Lateness:
    """A latency model of its own for a policy that learns none and forecasts nothing."""
    # Only where it is needed: this one learns with river.
    from voltana.policies.default import latency_model  # noqa: PLC0415

    own = None if made.predictor is not None else latency_model(context)
    return Lateness(context.slo, own)


def _with_lower(levels_mhz: tuple[float, ...], table_mhz: tuple[float, ...]) -> tuple[float, ...]:
    """The policy's levels and every lower clock that is worth having."""
    lowest_mhz = LOWEST_SHARE * table_mhz[-1]
    lower = (mhz for mhz in table_mhz if lowest_mhz <= mhz < levels_mhz[-1])
    return tuple(sorted({*levels_mhz, *lower}))


def _busiest(role: Role) -> Load:
    """The load of greatest power: one of so many tokens that no more power can follow from more."""
    if role is Role.DECODE:
        return Load.decode(MANY_REQUESTS, MANY_TOKENS)
    return Load.prefill([(MANY_TOKENS, 0)])
