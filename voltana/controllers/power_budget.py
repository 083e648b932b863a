"""A budget in watts that the instances of a cluster share, on top of any controllers.

Every instance holds a reservation: its predicted power at the clock asked for, with the predictor's
stated error on top. A busy one never reserves less than its floor, the most that it can need at its
lowest clock; an idle one reserves what idling takes, and what it needs to wake is kept free. An
instance may reserve what the others leave, so the reservations do not exceed the budget, and none
can be locked out. How much of it an instance is granted follows from its share, which is divided
anew now and then (`voltana.controllers.marginal_worth`, `voltana.controllers.even_shares`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import structlog

from voltana.controllers.budget_schedule import BudgetSchedule
from voltana.controllers.marginal_worth import MarginalWorth
from voltana.controllers.power_claim import Claim
from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.controllers.power_claim import Shares

_log = structlog.get_logger("voltana.power_budget")

AHEAD_S = 0.5
"""How long before it a fall of the budget is heeded, on top of the longest iteration under way:
idle instances have to decide, clocks to settle."""


class PowerBudget:
    """The ledger of one cluster; mutable, and shared by the controllers of its instances.

    Args:
        budget_w: What all instances together may draw, always or by a schedule.
        shares: Divides it; None by marginal worth.
        period_s: Time after which it is divided anew.

    Attributes:
        budget_w: What holds now. A fall is heeded before it comes, see `AHEAD_S`.
        capped: Decisions that got a lower clock than wished for.
        exceeded: Decisions whose lowest level did not fit what the others had left: the power model
            has just learned that it was too low, or an operator wants a higher clock. The others
            give way when they decide again.
        saturated: Those where they cannot: the floors were learned to be higher than the budget.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        budget_w: float | BudgetSchedule,
        shares: Shares | None = None,
        *,
        period_s: float = 0.05,
    ) -> None:
        if not isinstance(budget_w, BudgetSchedule):
            if not 0 < budget_w < math.inf:
                raise invalid(
                    "power_budget_w", budget_w, "above 0 W, finite", "Leave it out for none."
                )
            budget_w = BudgetSchedule.constant(budget_w)
        if not 0 <= period_s < math.inf:
            raise invalid("period_s", period_s, "0 s or more, finite", "0.05 is usual.")
        self._schedule = budget_w
        self._shares = shares or MarginalWorth()
        self.budget_w = budget_w.least_w  # instances are admitted to the smallest
        self.capped = self.exceeded = self.saturated = 0
        self._period_s = period_s
        self._floors_w: dict[str, float] = {}
        self._reserved_w: dict[str, float] = {}
        self._shares_w: dict[str, float] = {}
        self._claims: dict[str, Claim] = {}
        self._divided_at_s, self._divided_w, self._lent_w = -math.inf, math.nan, 0.0

    @property
    def reserved_w(self) -> Mapping[str, float]:
        """What is reserved for each instance; not to be changed."""
        return self._reserved_w

    @property
    def floors_w(self) -> Mapping[str, float]:
        """What each instance needed at its lowest clock when it was admitted."""
        return self._floors_w

    @property
    def shares_w(self) -> Mapping[str, float]:
        """What each instance has of the budget, as last divided; not to be changed."""
        return self._shares_w

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
                f"power_budget_w = {self._first_below(floors_w)} is not allowed: must be at least "
                f"{floors_w:.0f} W for {instances} lowest clock, and "
                f"{floor_w:.0f} W for each one more. Raise it, or run fewer instances."
            )
        self._floors_w[instance] = floor_w
        self._reserved_w[instance] = self._shares_w[instance] = floor_w
        # Until it says more it wishes for no more than what it may need.
        self._claims[instance] = Claim(
            floor_w=floor_w, levels_w=np.array([floor_w]), lateness=np.ones(1)
        )

    def _first_below(self, needed_w: float) -> str:
        """The first budget that is less than that, and its row where there are several."""
        schedule = self._schedule
        row = schedule.rows_below(needed_w)[0]
        budget = f"{schedule.budget_w[row - 1]:g}"
        if len(schedule.budget_w) == 1:
            return budget
        return f"{budget} in row {row} of the schedule (from {schedule.from_s[row - 1]:g} s)"

    def grant_w(self, instance: str, now_s: float, claim: Claim) -> float:
        """The most that an instance may reserve now."""
        self._claims[instance] = claim
        ahead_s = AHEAD_S + max(claimed.holds_s for claimed in self._claims.values())
        self.budget_w = self._schedule.least_until_w(now_s, now_s + ahead_s)
        if now_s - self._divided_at_s >= self._period_s or self.budget_w != self._divided_w:
            self._divide(now_s)
        spare_w = sum(claimed.wake_w for claimed in self._claims.values())
        others_w = sum(w for name, w in self._reserved_w.items() if name != instance)
        left_w = self.budget_w - others_w
        share_w = max(self._shares_w[instance], claim.floor_w)
        # What is spare for those that wake is for one that just did, too: up to its floor.
        return max(min(share_w + self._lent_w, left_w - spare_w), min(claim.floor_w, left_w))

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
        if sum(claim.floor_w for claim in self._claims.values()) > self.budget_w:
            if not self.saturated:
                _log.warning("saturated", instance=instance, power_budget_w=self.budget_w)
            self.saturated += 1

    def _divide(self, now_s: float) -> None:
        """Divide what holds now, and see what is left that no share can use."""
        self._divided_at_s, self._divided_w = now_s, self.budget_w
        self._shares_w.update(self._shares.divide(self._claims, self.budget_w))
        if self._shares.lends:
            used_w = sum(
                _usable_w(claim, self._shares_w[name]) for name, claim in self._claims.items()
            )
            self._lent_w = max(self.budget_w - used_w, 0.0)


def _usable_w(claim: Claim, share_w: float) -> float:
    """A share without what lies between two levels; all of one that covers the wish."""
    if share_w >= claim.levels_w[-1]:
        return share_w
    index = int(claim.levels_w.searchsorted(share_w, side="right")) - 1
    return max(float(claim.levels_w[index]) if index >= 0 else 0.0, claim.need_w)
