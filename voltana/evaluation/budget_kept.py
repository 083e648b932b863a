"""How well a run kept its power budget, by the mean power of each second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.controllers.power_budget import PowerBudget
    from voltana.values import FloatArray

WINDOW_S = 1.0
"""Over which power and budget are averaged: that of `RunRecord.power_w`."""


def budget_kept(
    power_w: FloatArray, budget: BudgetSchedule, ledger: PowerBudget | None
) -> Mapping[str, float]:
    """What was drawn beside what was allowed.

    Args:
        power_w: Mean power of all boards in each second, shape (n,).
        budget: What they were allowed together.
        ledger: What counted the decisions; None leaves those counts out.

    Returns:
        ``mean_w`` and ``least_w`` of the budget in these seconds, ``used_share`` (energy drawn over
        what was allowed), ``over_share`` (of the seconds whose mean power exceeded their mean
        budget), ``worst_excess_w`` (of them; 0 where none did), ``capped`` (decisions that got a
        lower clock than wished for), ``breaches`` (those whose lowest clock exceeded what was
        granted) and ``floors_w`` (sum of what the instances need at their lowest clock).
    """
    allowed_w = budget.means_w(WINDOW_S * np.arange(len(power_w) + 1, dtype=np.float64))
    excess_w = power_w - allowed_w
    seconds = len(power_w)
    kept = {
        "mean_w": float(allowed_w.mean()) if seconds else math.nan,
        "least_w": float(allowed_w.min()) if seconds else math.nan,
        "used_share": float(power_w.sum() / allowed_w.sum()) if seconds else math.nan,
        "over_share": float((excess_w > 1e-6).mean()) if seconds else math.nan,
        "worst_excess_w": max(float(excess_w.max()), 0.0) if seconds else math.nan,
    }
    if ledger is None:
        return kept
    return {
        **kept,
        "capped": ledger.capped,
        "breaches": ledger.exceeded,
        "floors_w": sum(ledger.floors_w.values()),
    }
