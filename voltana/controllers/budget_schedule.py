"""A power budget that changes with time: what holds from each instant until the next."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSchedule:
    """Watts over time; the first row holds before it, the last one for ever, or all of them again.

    Attributes:
        from_s: When each begins, ascending.
        budget_w: What holds from then on.
        repeat_s: Time after which it begins anew, above the last of `from_s`, the first of which
            is 0 then; None lets the last row hold for ever.

    Raises:
        ConfigError: If times do not ascend, or a budget is not above 0 W, or what repeats does not
            begin at 0 or is shorter than its rows.
    """

    from_s: tuple[float, ...]
    budget_w: tuple[float, ...]
    repeat_s: float | None = None

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
        if self.repeat_s is None:
            return
        if not self.from_s[-1] < self.repeat_s < math.inf:
            raise invalid(
                "repeat_s",
                self.repeat_s,
                f"above {self.from_s[-1]:g} s, when the last row begins, and finite",
                "Raise it, or leave it out where nothing repeats.",
            )
        if self.from_s[0] != 0:
            raise invalid(
                "from_s", self.from_s[0], "0 s for the first row of what repeats", "Add that row."
            )

    @classmethod
    def constant(cls, budget_w: float) -> BudgetSchedule:
        """The same budget all the time."""
        return cls(from_s=(0.0,), budget_w=(budget_w,))

    @property
    def least_w(self) -> float:
        """The smallest budget of all."""
        return min(self.budget_w)

    def rows_below(self, needed_w: float) -> list[int]:
        """Which rows are less than that, counted from 1."""
        return [row for row, watts in enumerate(self.budget_w, start=1) if watts < needed_w]

    def least_until_w(self, now_s: float, until_s: float) -> float:
        """The smallest budget that holds in a stretch of time, both ends included."""
        if len(self.budget_w) == 1:
            return self.budget_w[0]
        if self.repeat_s is None:
            return self._least_w(now_s, until_s)
        if until_s - now_s >= self.repeat_s:
            return self.least_w
        began_s = now_s % self.repeat_s
        ends_s = began_s + until_s - now_s
        if ends_s < self.repeat_s:
            return self._least_w(began_s, ends_s)
        again_w = self._least_w(0.0, ends_s - self.repeat_s)
        return min(self._least_w(began_s, self.repeat_s), again_w)

    def means_w(self, edges_s: FloatArray) -> FloatArray:
        """The mean budget between each two times.

        Args:
            edges_s: Ascending, shape (n + 1,).

        Returns:
            Shape (n,).
        """
        means_w: FloatArray = np.diff(self._joules(edges_s)) / np.diff(edges_s)
        return means_w

    def _least_w(self, now_s: float, until_s: float) -> float:
        """Of the rows as they stand."""
        first = max(bisect_right(self.from_s, now_s) - 1, 0)
        last = max(bisect_right(self.from_s, until_s), first + 1)
        return min(self.budget_w[first:last])

    def _joules(self, at_s: FloatArray) -> FloatArray:
        """What may have been drawn by each time, up to a constant."""
        rounds, within_s = np.zeros(len(at_s)), at_s
        if self.repeat_s is not None:
            rounds, within_s = np.divmod(at_s, self.repeat_s)
        starts_s, watts = np.array(self.from_s), np.array(self.budget_w)
        reached_j = np.concatenate([[0.0], np.cumsum(watts[:-1] * np.diff(starts_s))])
        row = np.maximum(np.searchsorted(starts_s, within_s, side="right") - 1, 0)
        joules: FloatArray = reached_j[row] + watts[row] * (within_s - starts_s[row])
        if self.repeat_s is not None:
            whole_j = float(reached_j[-1] + watts[-1] * (self.repeat_s - starts_s[-1]))
            joules = joules + rounds * whole_j
        return joules
