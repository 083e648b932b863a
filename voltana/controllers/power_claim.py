"""What an instance asks of a shared power budget, and what divides the budget among such claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim:
    """What an instance asks for.

    Attributes:
        floor_w: Least that has to be reserved for it now.
        wake_w: What it needs on top the moment it gets work; 0 for a busy one.
        levels_w: Power at each level up to the one it wishes for, ascending, shape (n,), n >= 1.
        lateness: Latency over budget at each of them, shape (n,).
        peak_w: The most that it wished for lately.
        holds_s: How long its clock stays as it is, whatever the budget does meanwhile: its
            iteration at the lowest level; 0 where that is not known.
    """

    floor_w: float
    wake_w: float = 0.0
    levels_w: FloatArray
    lateness: FloatArray
    peak_w: float = 0.0
    holds_s: float = 0.0

    @property
    def need_w(self) -> float:
        """What it has to have, work or no work."""
        return self.floor_w + self.wake_w


class Shares(Protocol):
    """Divides a budget.

    Attributes:
        lends: Whether what nobody's share needs may be taken by whoever asks first.
    """

    @property
    def lends(self) -> bool:
        """See the attribute."""
        ...

    def divide(self, claims: Mapping[str, Claim], budget_w: float) -> Mapping[str, float]:
        """Watts by instance.

        Args:
            claims: By instance.
            budget_w: What there is; where it does not cover what all need, everyone gets that.

        Returns:
            Nobody's share is below its need, and their sum is at most the larger of `budget_w` and
            the sum of the needs. A larger budget lowers no share.
        """
        ...
