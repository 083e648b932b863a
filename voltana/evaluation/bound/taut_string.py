"""The speeds of least energy for jobs with deadlines in the order of their arrival.

F. Yao, A. Demers and S. Shenker, "A scheduling model for reduced CPU energy", FOCS 1995, give the
schedule that is optimal for every convex power function at once. Where deadlines come in the order
of arrivals, its cumulative work is the shortest path between the staircase of deadlines and that
of arrivals, which a string pulled taut finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray


def optimal_speeds(
    release_s: FloatArray, deadline_s: FloatArray, work: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Speeds of the optimal schedule.

    Args:
        release_s: When each job may start, ascending, shape (n,).
        deadline_s: When it must be done, ascending and after its release, shape (n,).
        work: Its work, shape (n,).

    Returns:
        Instants, ascending, shape (m,), and the speed between neighbours, shape (m - 1,).
    """
    times = np.unique(np.concatenate((release_s, deadline_s)))
    done = np.concatenate(([0.0], np.cumsum(work)))
    upper = done[np.searchsorted(release_s, times, side="left")]  # released before each instant
    lower = done[np.searchsorted(deadline_s, times, side="right")]  # due by it
    upper[-1] = lower[-1] = done[-1]
    return times, _taut(times.tolist(), lower.tolist(), upper.tolist())


def _taut(times: list[float], lower: list[float], upper: list[float]) -> FloatArray:
    speeds = np.zeros(len(times) - 1)
    at, height, last = 0, 0.0, len(times) - 1
    while at < last:
        bend, bend_height = _next_bend(times, lower, upper, at, height)
        speeds[at:bend] = (bend_height - height) / (times[bend] - times[at])
        at, height = bend, bend_height
    return speeds


def _next_bend(
    times: list[float], lower: list[float], upper: list[float], at: int, height: float
) -> tuple[int, float]:
    """Where the shortest path from a point that it goes through bends next, or ends."""
    low, high = -np.inf, np.inf
    low_at = high_at = last = len(times) - 1
    for i in range(at + 1, last + 1):
        span = times[i] - times[at]
        down, up = (lower[i] - height) / span, (upper[i] - height) / span
        if down > high:
            return high_at, upper[high_at]
        if up < low:
            return low_at, lower[low_at]
        if down >= low:
            low, low_at = down, i
        if up <= high:
            high, high_at = up, i
    return last, lower[last]
