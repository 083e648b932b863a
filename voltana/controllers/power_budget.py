"""A budget in watts that the instances of a cluster share, on top of any controllers.

Every instance holds a reservation: its predicted power at the clock asked for, with the predictor's
stated error on top. A busy one never reserves less than its floor, the most that it can need at its
lowest clock; an idle one reserves what idling takes, and what it needs to wake is kept free. An
instance may reserve what the others leave, so the reservations do not exceed the budget, and none
can be locked out. What is beyond the floors is divided anew now and then, where a watt buys the
most: first for those that would be late, then for the least latency.
The division is the greedy one for concave gains (N. Megiddo, A. Tamir, "Linear time algorithms for
some separable quadratic programming problems", Operations Research Letters 13, 1993, has it as the
marginal-allocation rule); gains are made concave by their running minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray

_log = structlog.get_logger("voltana.power_budget")

LATE_WEIGHT = 100.0
"""How much more a share of the budget counts beyond it than within it."""

AHEAD_S = 0.5
"""How long before it a fall of the budget is heeded: iterations have to end, idle instances to
decide, clocks to settle."""

_LONGEST = 50.0
"""Latencies beyond so many budgets are all the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim:
    """What an instance asks for.

    Attributes:
        floor_w: Least that has to be reserved for it now.
        wake_w: What it needs on top the moment it gets work; 0 for a busy one.
        levels_w: Power at each level up to the one it wishes for, ascending, shape (n,), n >= 1.
        lateness: Latency over budget at each of them, shape (n,).
    """

    floor_w: float
    wake_w: float = 0.0
    levels_w: FloatArray
    lateness: FloatArray


class PowerBudget:
    """The ledger of one cluster; mutable, and shared by the controllers of its instances.

    Args:
        budget_w: What all instances together may draw, always or by a schedule.
        period_s: Time after which it is divided anew.

    Attributes:
        budget_w: What holds now. A fall is heeded `AHEAD_S` before it comes.
        capped: Decisions that got a lower clock than wished for.
        exceeded: Decisions whose lowest level did not fit what the others had left: the power model
            has just learned that it was too low, or an operator wants a higher clock. The others
            give way when they decide again.
        saturated: Those where they cannot: the floors were learned to be higher than the budget.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(self, budget_w: float | BudgetSchedule, *, period_s: float = 0.05) -> None:
        if not isinstance(budget_w, BudgetSchedule):
            if not 0 < budget_w < math.inf:
                raise invalid(
                    "power_budget_w", budget_w, "above 0 W, finite", "Leave it out for none."
                )
            budget_w = BudgetSchedule.constant(budget_w)
        if not 0 <= period_s < math.inf:
            raise invalid("period_s", period_s, "0 s or more, finite", "0.05 is usual.")
        self._schedule = budget_w
        self.budget_w = budget_w.least_w  # instances are admitted to the smallest
        self.capped = self.exceeded = self.saturated = 0
        self._period_s = period_s
        self._floors_w: dict[str, float] = {}
        self._reserved_w: dict[str, float] = {}
        self._shares_w: dict[str, float] = {}
        self._claims: dict[str, Claim] = {}
        self._divided_at_s = -math.inf

    @property
    def reserved_w(self) -> Mapping[str, float]:
        """What is reserved for each instance; not to be changed."""
        return self._reserved_w

    @property
    def floors_w(self) -> Mapping[str, float]:
        """What each instance needed at its lowest clock when it was admitted."""
        return self._floors_w

    def register(self, instance: str, floor_w: float) -> None:
        """Admit an instance, before any of them claims power.

        Raises:
            ConfigError: If the budget does not cover the floors of all that were registered.
        """
        floors_w = sum(self._reserved_w.values()) + floor_w
        if floors_w > self.budget_w:
            count = len(self._reserved_w) + 1
            instances = "1 instance at its" if count == 1 else f"{count} instances at their"
            raise ConfigError(
                f"power_budget_w = {self.budget_w:g} is not allowed: must be at least "
                f"{floors_w:.0f} W for {instances} lowest clock, and "
                f"{floor_w:.0f} W for each one more. Raise it, or run fewer instances."
            )
        self._floors_w[instance] = floor_w
        self._reserved_w[instance] = self._shares_w[instance] = floor_w

    def grant_w(self, instance: str, now_s: float, claim: Claim) -> float:
        """The most that an instance may reserve now."""
        self._claims[instance] = claim
        self.budget_w = self._schedule.least_until_w(now_s, now_s + AHEAD_S)
        spare_w = self._spare_w()
        if now_s - self._divided_at_s >= self._period_s:
            self._divided_at_s = now_s
            self._shares_w.update(divide(self._claims, self._left_w() - spare_w))
        others_w = sum(w for name, w in self._reserved_w.items() if name != instance)
        left_w = self.budget_w - others_w
        free_w = max(self.budget_w - spare_w - sum(self._shares_w.values()), 0.0)
        share_w = max(self._shares_w.get(instance, 0.0), claim.floor_w)
        # What is spare for those that wake is for one that just did, too: up to its floor.
        return max(min(share_w + free_w, left_w - spare_w), min(claim.floor_w, left_w))

    def reserve(self, instance: str, power_w: float, *, fits: bool = True) -> None:
        """Enter what an instance draws at most until it decides again.

        Args:
            instance: Its name.
            power_w: What is reserved.
            fits: False if that is more than was granted; where it cannot be otherwise, a warning is
                logged the first time.
        """
        self._reserved_w[instance] = power_w
        if fits:
            return
        self.exceeded += 1
        if sum(claim.floor_w for claim in self._claims.values()) > self._left_w():
            if not self.saturated:
                _log.warning("saturated", instance=instance, power_budget_w=self.budget_w)
            self.saturated += 1

    def _left_w(self) -> float:
        """The budget without the floors of those that have not claimed anything yet."""
        silent = (w for name, w in self._reserved_w.items() if name not in self._claims)
        return self.budget_w - sum(silent)

    def _spare_w(self) -> float:
        """What is kept free for idle instances that get work."""
        return sum(claim.wake_w for claim in self._claims.values())


def divide(claims: Mapping[str, Claim], budget_w: float) -> dict[str, float]:
    """Divide a budget: everyone's floor, and the rest where a watt buys the most.

    Args:
        claims: By instance.
        budget_w: What there is; where it does not cover the floors, everyone gets its floor.

    Returns:
        Watts by instance. Their sum is at most the larger of `budget_w` and the sum of the floors.
    """
    shares_w = {name: claim.floor_w for name, claim in claims.items()}
    steps_w, gains, owners = [], [], []
    for index, claim in enumerate(claims.values()):
        power_w = np.maximum(claim.levels_w, claim.floor_w)
        # From what the floor buys anyway to the first level beyond it.
        step_w = np.diff(power_w, prepend=claim.floor_w)
        late = np.log(np.clip(claim.lateness, 1.0 / _LONGEST, _LONGEST))
        harm = late + LATE_WEIGHT * np.maximum(late, 0.0)
        gain = -np.diff(harm, prepend=harm[0])
        worth = np.divide(gain, step_w, out=np.full(len(gain), np.inf), where=step_w > 1e-9)
        steps_w.append(step_w)
        gains.append(np.minimum.accumulate(worth))
        owners.append(np.full(len(step_w), index))
    if not claims:
        return shares_w
    order = np.argsort(-np.concatenate(gains), kind="stable")
    step_w, owner = np.concatenate(steps_w)[order], np.concatenate(owners)[order]
    fits = np.cumsum(step_w) <= budget_w - sum(shares_w.values()) + 1e-9
    added_w = np.bincount(owner[fits], weights=step_w[fits], minlength=len(claims))
    return {
        name: share_w + float(extra_w)
        for (name, share_w), extra_w in zip(shares_w.items(), added_w, strict=True)
    }
