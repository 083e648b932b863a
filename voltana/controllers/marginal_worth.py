"""A power budget by marginal worth: nobody loses by sharing, and what is left goes where it helps.

An instance keeps what it needs, and of an even share as much as it wished for lately: work that
comes in bursts finds it there, and no instance that would use its even share is worse off than
with even shares. (That a shared resource should give everyone at least that is the "sharing
incentive" of A. Ghodsi et al., "Dominant Resource Fairness", NSDI 2011.) Others borrow what is
beyond.

That is filled in by descending worth of a watt, which equalises the marginal worth of all that are
neither at their wish nor at what they keep: the price of the shared constraint (S. Boyd, L.
Vandenberghe, "Convex Optimization", 2004, section 5.5.3, water-filling). For concave gains, which
these are made by their running minimum, the greedy order is optimal (N. Megiddo, A. Tamir, "Linear
time algorithms for some separable quadratic programming problems", Operations Research Letters 13,
1993). A watt's worth is by how much it lowers the logarithm of the lateness, the latency over what
the requests leave for it as the learned models forecast it: beyond 1, where deadlines are lost,
`LATE_WEIGHT` times as much as below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.even_shares import levelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.controllers.power_claim import Claim
    from voltana.values import FloatArray

LATE_WEIGHT = 100.0
"""How much more lateness beyond the budget of an iteration counts than lateness within it."""

_LONGEST = 50.0
"""Latencies beyond so many budgets are all the same."""


class MarginalWorth:
    """Everyone keeps what it would use of an even share; the rest goes where a watt buys most."""

    lends = True

    def divide(self, claims: Mapping[str, Claim], budget_w: float) -> dict[str, float]:
        """See `voltana.controllers.power_claim.Shares.divide`; no share exceeds a recent wish."""
        if not claims:
            return {}
        needs_w = np.array([claim.need_w for claim in claims.values()])
        peaks_w = np.array([max(c.peak_w, float(c.levels_w[-1])) for c in claims.values()])
        kept_w = levelled(needs_w, peaks_w, budget_w)
        steps = [_steps(claim, kept) for claim, kept in zip(claims.values(), kept_w, strict=True)]
        added_w = _filled(steps, max(budget_w - float(kept_w.sum()), 0.0))
        return dict(zip(claims, (kept_w + added_w).tolist(), strict=True))

    def __repr__(self) -> str:
        return "MarginalWorth()"


def _steps(claim: Claim, kept_w: float) -> tuple[FloatArray, FloatArray]:
    """Watts beyond what is kept from each level to the next, and what a watt is worth there."""
    power_w = np.maximum(claim.levels_w, claim.floor_w)
    step_w = np.diff(power_w, prepend=claim.floor_w)
    late = np.log(np.clip(claim.lateness, 1.0 / _LONGEST, _LONGEST))
    harm = late + LATE_WEIGHT * np.maximum(late, 0.0)
    gain = -np.diff(harm, prepend=harm[0])
    worth = np.divide(gain, step_w, out=np.full(len(gain), np.inf), where=step_w > 1e-9)
    beyond_w: FloatArray = np.clip(power_w - kept_w, 0.0, step_w)
    return beyond_w, np.minimum.accumulate(worth)


def _filled(steps: list[tuple[FloatArray, FloatArray]], left_w: float) -> FloatArray:
    """What each instance gets of the rest: the steps of greatest worth first, the last in part."""
    owner = np.repeat(np.arange(len(steps)), [len(step_w) for step_w, _ in steps])
    order = np.argsort(-np.concatenate([worth for _, worth in steps]), kind="stable")
    step_w = np.concatenate([step_w for step_w, _ in steps])[order]
    taken_w = np.clip(left_w - (np.cumsum(step_w) - step_w), 0.0, step_w)
    added_w = np.bincount(owner[order], weights=taken_w, minlength=len(steps))
    return added_w.astype(np.float64)
