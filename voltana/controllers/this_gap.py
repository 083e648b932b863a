"""This gap: the slowest level at which those that wait for a token still get it in time.

What is pending until then has to fit what is left of the threshold. A faster clock is in force only
after a while, during which it runs on at the clock before; where even the fastest level comes too
late, a rise costs power and keeps nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

CHANGE_S = 0.05
"""No clock is lowered for less time than it takes to settle and to come back; half of it each."""


def after_change_s(pending_s: FloatArray, levels_mhz: FloatArray, clock_mhz: float) -> FloatArray:
    """What is pending takes at every level if that is asked for now.

    Args:
        pending_s: What it takes where a level is in force, shape (l,).
        levels_mhz: The levels, ascending, shape (l,).
        clock_mhz: The clock until the change has settled.
    """
    now_s = float(np.interp(clock_mhz, levels_mhz, pending_s))
    if not 0.0 < now_s < math.inf:
        return pending_s
    # Of the work, the share that is done before.
    before = min(CHANGE_S / 2.0 / now_s, 1.0)
    after_s: FloatArray = pending_s + before * np.maximum(now_s - pending_s, 0.0)
    return after_s


def keeping_level(
    upper_s: FloatArray,
    mean_s: FloatArray,
    left_s: float,
    *,
    levels_mhz: FloatArray,
    clock_mhz: float,
) -> int | None:
    """Index of the slowest level that keeps the gap; the fastest where none does so surely.

    Args:
        upper_s: What is pending exceeds this rarely, at every level, shape (l,).
        mean_s: What it is expected to take, likewise.
        left_s: What is left of the threshold.
        levels_mhz: See `after_change_s`.
        clock_mhz: Likewise.

    Returns:
        None where no level is expected to.
    """
    surely = after_change_s(upper_s, levels_mhz, clock_mhz) <= left_s
    if surely[-1]:
        return int(surely.argmax())
    likely = after_change_s(mean_s, levels_mhz, clock_mhz)[-1] <= left_s
    return len(levels_mhz) - 1 if likely else None
