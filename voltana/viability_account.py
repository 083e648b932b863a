"""How well the premises of viability held: how often the envelope was broken, and who was outside.

docs/viability.md proves that a viable state stays viable while the demand keeps its envelope. Both
halves are counted where decisions are made, and reported alike by simulator and agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class ViabilityAccount:
    """Counts of one controller, or of several together.

    Attributes:
        windows: Windows that were held against the demand envelope.
        broken: Those in which the batch grew beyond it.
        learning: Windows from before the envelope was learned, after a start or an idle stretch;
            they are in neither.
        steps: Decisions on a decode batch.
        outside: Those on a batch beyond the viable ones.
    """

    windows: int
    broken: int
    learning: int
    steps: int
    outside: int

    @property
    def broken_share(self) -> float:
        """Share of the windows that broke the envelope; nan before the first."""
        return self.broken / self.windows if self.windows else math.nan

    @property
    def outside_share(self) -> float:
        """Share of the steps outside the viable set; nan before the first."""
        return self.outside / self.steps if self.steps else math.nan

    def figures(self) -> dict[str, float | None]:
        """Counts and shares as JSON values; None where nothing was counted yet."""
        return {
            "windows": self.windows,
            "broken": self.broken,
            "learning": self.learning,
            "broken_share": self.broken_share if self.windows else None,
            "steps": self.steps,
            "outside": self.outside,
            "outside_share": self.outside_share if self.steps else None,
        }


def total(accounts: Iterable[ViabilityAccount | None]) -> ViabilityAccount | None:
    """The sums over those that keep one; None where nobody does."""
    kept = [account for account in accounts if account is not None]
    if not kept:
        return None
    return ViabilityAccount(
        windows=sum(account.windows for account in kept),
        broken=sum(account.broken for account in kept),
        learning=sum(account.learning for account in kept),
        steps=sum(account.steps for account in kept),
        outside=sum(account.outside for account in kept),
    )
