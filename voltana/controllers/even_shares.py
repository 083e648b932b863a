"""A power budget in even shares: what a cluster without a common planner would do.

It is what every other division is compared with. An instance that needs more than an even share at
its lowest clock gets what it needs, and the others give way alike: a max-min fair division (D.
Bertsekas, R. Gallager, "Data Networks", 2nd ed., 1992, section 6.5.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.controllers.power_claim import Claim
    from voltana.values import FloatArray


class EvenShares:
    """Everyone has the same share, whether it can use it or not; nobody borrows."""

    lends = False

    def divide(self, claims: Mapping[str, Claim], budget_w: float) -> dict[str, float]:
        """See `voltana.controllers.power_claim.Shares.divide`."""
        needs_w = np.array([claim.need_w for claim in claims.values()])
        shares_w = levelled(needs_w, np.full(len(needs_w), np.inf), budget_w)
        return dict(zip(claims, shares_w.tolist(), strict=True))

    def __repr__(self) -> str:
        return "EvenShares()"


def levelled(needs_w: FloatArray, most_w: FloatArray, budget_w: float) -> FloatArray:
    """Everyone's need, and up to one level for all as much of it as they can use.

    Args:
        needs_w: Of each instance, shape (n,).
        most_w: What each can use, shape (n,).
        budget_w: What there is.

    Returns:
        Shape (n,): ``max(need, min(most, level))`` with the highest level, at most an even share,
        at which the sum is at most the budget; the needs where there is none.
    """
    if not len(needs_w):
        return needs_w
    even_w = budget_w / len(needs_w)
    levels_w = np.unique(np.clip(np.concatenate([needs_w, most_w, [0.0, even_w]]), 0.0, even_w))
    totals_w = np.maximum(needs_w, np.minimum(most_w, levels_w[:, np.newaxis])).sum(axis=1)
    below = int(np.searchsorted(totals_w, budget_w * (1.0 + 1e-12), side="right")) - 1
    if below < 0:
        return needs_w
    level_w = float(levels_w[below])
    if below + 1 < len(levels_w):  # between two levels the sum grows evenly
        step_w = float(totals_w[below + 1] - totals_w[below])
        part = (budget_w - float(totals_w[below])) / step_w
        level_w += min(max(part, 0.0), 1.0) * float(levels_w[below + 1] - levels_w[below])
    shares_w: FloatArray = np.maximum(needs_w, np.minimum(most_w, level_w))
    return shares_w
