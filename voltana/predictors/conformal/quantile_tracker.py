"""Online quantile tracking of one group's scores, and the account of what it guarantees.

The rule is adaptive conformal inference (Gibbs and Candes, "Adaptive conformal inference under
distribution shift", NeurIPS 2021) in the quantile form of Angelopoulos, Candes and Tibshirani,
"Conformal PID control for time series prediction", NeurIPS 2023. The bound on certified misses is
proven in docs/guarantee.md.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.promise import Statement


ROUNDING = 1e-9
"""What sums of steps may be off by."""


class Counted(enum.Enum):
    """What the decision of a scored label was; docs/guarantee.md, "Which labels are scored"."""

    CERTIFIED = "certified"
    BLOCKED = "blocked"
    ELSEWHERE = "elsewhere"


COUNTED_CERTIFIED, COUNTED_ELSEWHERE = Counted.CERTIFIED, Counted.ELSEWHERE
"""For what every label does, as `voltana.values.control.CERTIFIED`."""


@dataclass(slots=True, kw_only=True)
class Account:
    """Weights of labels, summed; what a report shows of a guarantee.

    Attributes:
        certified: Scored labels of certified decisions (T_certified).
        blocked: Scored hits of uncertified ones, where only the margin blocked (T_blocked).
        elsewhere: Scored hits at another clock than the one in force, or at an unknown one
            (T_elsewhere), held against the bound that was issued for that clock.
        elsewhere_blocked: Of those, the hits of uncertified decisions.
        missed: Certified labels above their bound.
        violated: Certified labels above their budget (V); never more than `missed`.
        forgiven: Weight of certified misses that clipping cut; 0 while delays are at most K.
        unsettled: Certified labels in time whose clock had not settled, and which were no hits
            there: no credit taken.
        unscored: Uncertified labels that were not scored.
    """

    certified: float = 0.0
    blocked: float = 0.0
    elsewhere: float = 0.0
    elsewhere_blocked: float = 0.0
    missed: float = 0.0
    violated: float = 0.0
    forgiven: float = 0.0
    unsettled: float = 0.0
    unscored: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values, by attribute."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class QuantileTracker:
    """The margin q of one group: up after a miss, slowly down after a hit.

    Args:
        statement: Its numbers.
        first: Margin to start from; clipped into the statement's range.

    Attributes:
        statement: As given.
        first: Margin that it started from.
        quantile: The margin now.
        highest: The highest one so far, which the bound follows.
        updates: Labels scored so far.
        overdue: Labels that came after more than K others.
        longest: Most others that a label came after.
        account: What was scored.
    """

    __slots__ = (
        "_alpha", "_lowest", "_most", "_step", "account", "first", "highest", "longest", "overdue",
        "quantile", "statement", "updates",
    )  # fmt: skip

    def __init__(self, statement: Statement, first: float) -> None:
        self.statement = statement
        self._alpha, self._lowest, self._most = statement.alpha, statement.q_lo, statement.q_hi
        self._step = None if statement.decay else statement.gamma
        self.first = self.quantile = self.highest = min(max(first, self._lowest), self._most)
        self.updates = 0
        self.overdue = self.longest = 0
        self.account = Account()

    def update(self, *, missed: bool, weight: float, counts_as: Counted, issued_at: int) -> None:
        """Apply one scored label.

        Args:
            missed: Whether the label was above its bound, as issued; of certified ones alone.
            weight: From 0 to the statement's `max_weight`.
            counts_as: What its decision was.
            issued_at: `updates` when its bound was issued.
        """
        delay, longest = self.updates - issued_at, self.longest
        self.longest = delay if delay > longest else longest
        if delay > self.statement.delay:
            self.overdue += 1
        forgiven = self.move(missed=missed, weight=weight)
        account = self.account
        if counts_as is COUNTED_CERTIFIED:  # mostly
            account.certified += weight
        elif counts_as is Counted.BLOCKED:
            account.blocked += weight
        else:
            account.elsewhere += weight
        if missed:
            account.missed += weight
            account.forgiven += forgiven

    def move(self, *, missed: bool, weight: float) -> float:
        """Move the margin for one label, without an account of it; gives the weight cut above."""
        step = self.statement.step(self.updates) if self._step is None else self._step
        moved = self.quantile + step * weight * ((1.0 if missed else 0.0) - self._alpha)
        self.updates += 1
        if missed:
            self.highest = max(self.highest, min(moved, self._most))
        if moved > self._most:
            self.quantile = self._most
            return (moved - self._most) / step
        self.quantile = moved if moved > self._lowest else self._lowest
        return 0.0

    def bound(self) -> float:
        """Most weight that certified misses can have by now (docs/guarantee.md, Theorem 1).

        It is attained, so that it has what rounding may be off by on top.
        """
        account = self.account
        scored = account.certified + account.blocked + account.elsewhere
        constant = self.statement.constant(self.first, self.updates, self.highest)
        return self.statement.alpha * scored + constant + account.forgiven + ROUNDING

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; `restore` reads them."""
        return {
            "first": self.first,
            "quantile": self.quantile,
            "highest": self.highest,
            "updates": self.updates,
            "overdue": self.overdue,
            "longest": self.longest,
            "account": self.account.to_dict(),
        }

    @classmethod
    def restore(cls, statement: Statement, values: Mapping[str, object]) -> QuantileTracker:
        """Read what `to_dict` wrote.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If a number is none that `to_dict` can have written.
        """
        account = values["account"]
        if not isinstance(account, dict):
            raise TypeError("account must be a table")
        made = cls(statement, read_number(values["first"], statement.q_lo, statement.q_hi))
        made.quantile = read_number(values["quantile"], statement.q_lo, statement.q_hi)
        # Without it the file is an older one: it may have been as high as may be.
        highest = values.get("highest", statement.q_hi)
        made.highest = read_number(highest, max(made.first, made.quantile), statement.q_hi)
        made.updates = int(read_number(values["updates"], 0.0))
        made.overdue = int(read_number(values["overdue"], 0.0))
        made.longest = int(read_number(values["longest"], 0.0))
        made.account = Account(
            **{name: read_number(weight, 0.0) for name, weight in account.items()}
        )
        if not made.account.violated <= made.account.missed <= made.account.certified:
            raise ValueError("violated must be at most missed, and that at most certified")
        return made


def read_number(value: object, least: float, most: float = math.inf) -> float:
    """A finite number within a range, as a file should have it.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not (math.isfinite(value) and least - ROUNDING <= value <= most + ROUNDING):
        raise ValueError(f"{value!r} is not from {least:g} to {most:g}")
    return min(max(float(value), least), most)
