"""A power budget that changes with time: what holds from each instant until the next."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass

from voltana.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSchedule:
    """Watts over time; the first row holds before it, the last one for ever.

    Attributes:
        from_s: When each begins, ascending.
        budget_w: What holds from then on.

    Raises:
        ConfigError: If times do not ascend, or a budget is not above 0 W.
    """

    from_s: tuple[float, ...]
    budget_w: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.from_s) != len(self.budget_w) or not self.from_s:
            raise invalid("from_s", self.from_s, "one time for each budget", "Give some rows.")
        for budget_w in self.budget_w:
            if not 0 < budget_w < math.inf:
                raise invalid(
                    "power budget", budget_w, "above 0 W, finite", "Leave it out for none."
                )
        if any(later <= sooner for sooner, later in itertools.pairwise(self.from_s)):
            raise invalid("from_s", self.from_s, "ascending", "Sort the rows.")

    @classmethod
    def constant(cls, budget_w: float) -> BudgetSchedule:
        """The same budget all the time."""
        return cls(from_s=(0.0,), budget_w=(budget_w,))

    @property
    def least_w(self) -> float:
        """The smallest budget of all."""
        return min(self.budget_w)

    def least_until_w(self, now_s: float, until_s: float) -> float:
        """The smallest budget that holds in a stretch of time, both ends included."""
        first = max(bisect_right(self.from_s, now_s) - 1, 0)
        last = max(bisect_right(self.from_s, until_s), first + 1)
        return min(self.budget_w[first:last])

    def scaled(self, share: float) -> BudgetSchedule:
        """A share of it."""
        return BudgetSchedule(
            from_s=self.from_s, budget_w=tuple(share * budget_w for budget_w in self.budget_w)
        )
