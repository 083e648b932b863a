"""Operating points of a decode instance, such that their mixtures undercut every iteration.

An iteration is a batch of whole requests, their cached tokens and a mixture of clocks (a clock
may change in the middle, and the plant then computes piece by piece). The points are made so that
for every iteration there is a mixture of them with at least its requests and cached tokens, and
at most its time, energy and chance of being late:

* Batches between two grid sizes cost at least what the smallest of them does, and produce at most
  what the largest does.
* Time and energy are convex in the cached tokens; a chord lies above them by at most twice what
  it does in the middle, which is subtracted.
* Of the clocks only the lower convex hull of (time, energy) is kept, cut into short pieces near
  the ITL threshold.
* The chance of being late is taken one piece and one step of cached tokens earlier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.bound.hull import lower_hull
from voltana.evaluation.bound.iteration_cost import decode_steps

if TYPE_CHECKING:
    from voltana.evaluation.bound.iteration_cost import Grid
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.values import FloatArray

_PIECE = 1.01
"""Ratio of the times at the ends of a piece of the hull near the threshold."""

_EARLY_DEVIATIONS, _LATE_DEVIATIONS = 5.0, 3.0
"""Deviations of the noise below and above the threshold between which the hull is cut."""

_CONTEXTS = ((0.02, 0.3, 1.2), (0.3, 4.0, 1.05), (4.0, 16.0, 1.08))
"""Mean contexts, relative to the workload's, and the step of the grid between them. A point is
charged with the lateness of the next shorter context, so that a wide step gives lateness away; it
may be wider below what is usual, where the cache takes little of the time, and above it.
"""

_FEW = 1e-9
"""Chance of being late that is taken as none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatingPoints:
    """Decode iterations; all arrays of shape (points,).

    Attributes:
        requests: Requests in the batch, each of which gets a token.
        kv_tokens: Their cached tokens.
        seconds: Latency without noise.
        joules: Energy above idle.
        late_tokens: Expected number of tokens above the ITL threshold.
    """

    requests: FloatArray
    kv_tokens: FloatArray
    seconds: FloatArray
    joules: FloatArray
    late_tokens: FloatArray

    def __len__(self) -> int:
        return len(self.requests)


def operating_points(
    plant: PlantModel, cluster: ClusterSpec, *, mean_context: float, most_requests: int
) -> OperatingPoints:
    """Points for all batches of a decode instance.

    Args:
        plant: The instance.
        cluster: Its memory, limits, thresholds and noise.
        mean_context: Cached tokens of a request, around which the grid is fine.
        most_requests: Largest batch that can occur.
    """
    chunks: list[list[FloatArray]] = [[] for _ in fields(OperatingPoints)]
    slo, deviation = cluster.slo, cluster.engine.latency_noise
    cells = _batches(plant, max(1, min(most_requests, cluster.engine.max_running_requests)))
    least = np.array([cell[0] for cell in cells], dtype=float)
    grid = _contexts(cluster.kv_capacity_tokens, least, mean_context)
    seconds, joules = _convex_costs(plant, least, grid)
    growth: Grid = np.ones(grid.shape)
    growth[:, 1:] = (seconds[:, :, 1:] / seconds[:, :, :-1]).max(axis=0)
    for i, (_, largest) in enumerate(cells):
        for k in _distinct(grid[i]):
            point_s, point_j, before_s = _pieces(
                seconds[:, i, k], joules[:, i, k], slo.itl_s, deviation
            )
            late = _late(before_s / growth[i, k], slo.itl_s, deviation)
            rows = (largest, grid[i, k], point_s, point_j, largest * late)
            for chunk, row in zip(chunks, rows, strict=True):
                chunk.append(np.broadcast_to(row, point_s.shape))
    made = (np.concatenate(chunk) for chunk in chunks)
    return OperatingPoints(**dict(zip(OperatingPoints.__slots__, made, strict=True)))


def _batches(plant: PlantModel, most: int) -> list[tuple[int, int]]:
    """Least and largest batch of each cell; its cost is that of the least."""
    ends = [n for n in plant.hardware.launch.graph_batches if n < most]
    while not ends or ends[-1] < most:
        at = ends[-1] if ends else 0
        step = 4 if at < 768 else 16
        ends.append(min(most, (at // step + 1) * step))
    return list(zip([1, *(n + 1 for n in ends)], ends, strict=False))


def _contexts(capacity_tokens: int, requests: FloatArray, mean_context: float) -> Grid:
    """Grid of cached tokens of each batch, from none up to what fits; shape (batches, grid)."""
    parts = [
        np.geomspace(low, high, math.ceil(math.log(high / low) / math.log(step)) + 1)
        for low, high, step in _CONTEXTS
    ]
    shares = np.unique(np.concatenate(([0.0], *parts, [np.inf])))
    most = np.maximum(float(capacity_tokens), requests)
    with np.errstate(invalid="ignore"):
        grid: Grid = np.minimum(requests[:, None] * mean_context * shares, most[:, None])
    return grid


def _distinct(grid: FloatArray) -> list[int]:
    """Places of an ascending grid that differ from the one before."""
    return [k for k in range(len(grid)) if not k or grid[k] > grid[k - 1]]


def _convex_costs(plant: PlantModel, requests: FloatArray, grid: Grid) -> tuple[Grid, Grid]:
    """Seconds and joules at all clocks and grid points, lowered so that chords stay below."""
    middles = (grid[:, 1:] + grid[:, :-1]) / 2
    seconds, joules = decode_steps(plant, requests, np.concatenate((grid, middles), axis=1))
    return _below_chords(seconds, grid.shape[1]), _below_chords(joules, grid.shape[1])


def _below_chords(values: Grid, count: int) -> Grid:
    at, middle = values[..., :count], values[..., count:]
    gap = np.maximum(at[..., 1:] + at[..., :-1] - 2 * middle, 0.0)  # twice that in the middle
    around = np.pad(gap, ((0, 0), (0, 0), (1, 1)))
    lowered: Grid = at - np.maximum(around[..., :-1], around[..., 1:])
    return lowered


def _pieces(
    seconds: FloatArray, joules: FloatArray, itl_s: float, deviation: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hull points by ascending time up to the least energy, and the time of the point before."""
    hull = lower_hull(seconds, joules)
    hull = hull[: int(np.argmin(joules[hull])) + 1]
    xs, ys = seconds[hull], joules[hull]
    low = max(xs[0], itl_s * math.exp(-_EARLY_DEVIATIONS * deviation) / _PIECE**2)
    high = min(xs[-1], itl_s * math.exp(_LATE_DEVIATIONS * deviation) * _PIECE**2)
    if low < high:
        steps = max(1, math.ceil(math.log(high / low) / math.log(_PIECE)))
        fine = np.union1d(xs, np.geomspace(low, high, steps + 1)[1:-1])
        xs, ys = fine, np.interp(fine, xs, ys)
    before_s: FloatArray = np.concatenate((xs[:1], xs[:-1]))
    return xs, ys, before_s


def _late(seconds: FloatArray, itl_s: float, deviation: float) -> FloatArray:
    """Chance that an iteration of that nominal latency exceeds the threshold."""
    from scipy.special import ndtr  # noqa: PLC0415  (slow to import, as in `decode`)

    if not deviation:
        return np.asarray(seconds > itl_s, dtype=float)
    chance = ndtr(np.log(seconds / itl_s) / deviation)
    return np.where(chance < _FEW, 0.0, chance)
