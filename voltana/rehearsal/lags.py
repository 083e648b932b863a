"""How long a decision takes, from outside: from an iteration's launch to the driver's call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import FloatArray


def decision_lags_s(
    rows: Mapping[str, Sequence[Sequence[float]]],
    set_calls: Sequence[tuple[float, int, int]],
    first_boards: Mapping[str, int],
    *,
    factor: float,
    from_s: float,
) -> FloatArray:
    """From each launch to the call that set the clock chosen for it.

    A call that sets what is held already tells nothing, and one while an instance is idle follows
    no launch.

    Args:
        rows: Iterations of each instance: when each was launched and what it took, first of all.
        set_calls: Calls that set a clock: wall's monotonic seconds, board, MHz.
        first_boards: The first board of each instance.
        factor: Seconds of the rehearsal in one of the wall's.
        from_s: Since when, on the wall.

    Returns:
        Seconds of the rehearsal, ascending.
    """
    held: dict[int, int] = {}
    launches = {
        board: np.array([row[:2] for row in rows[name]]).reshape(-1, 2)
        for name, board in first_boards.items()
    }
    lags = []
    for called_s, board, clock_mhz in set_calls:
        before = held.get(board)
        held[board] = clock_mhz
        if clock_mhz == before or board not in launches or called_s < from_s:
            continue
        called = called_s * factor
        ran = launches[board]
        place = int(np.searchsorted(ran[:, 0], called, side="right")) - 1
        if place >= 0 and called <= ran[place, 0] + ran[place, 1]:
            lags.append(called - float(ran[place, 0]))
    return np.sort(np.array(lags))


def percentile(ascending: FloatArray, percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed; nan of none."""
    if not len(ascending):
        return math.nan
    return float(ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)])
