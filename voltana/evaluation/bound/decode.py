"""Least energy of decode: a linear programme over operating points, bin by bin of time.

Variables are how often each operating point runs in each bin. Its constraints are what every
schedule keeps: the instances have no more time than there is; tokens and cached tokens come no
earlier and no later than `DecodeDemand` says; the batches hold no more requests than are there,
together over a bin, and each is made of requests that are there; no more tokens are late than may
be. There are a hundred thousand points, so columns are generated: points of negative reduced cost
join until there is hardly any (P. C. Gilmore and R. E. Gomory, "A linear programming approach to
the cutting-stock problem", Oper. Res. 1961). What is left of it is subtracted (L. S. Lasdon,
"Optimization theory for large systems", 1970), so the result is a bound after any number of rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import VoltanaError

if TYPE_CHECKING:
    from voltana.evaluation.bound.decode_demand import DecodeDemand
    from voltana.evaluation.bound.iteration_cost import Grid
    from voltana.evaluation.bound.operating_points import OperatingPoints
    from voltana.values import FloatArray

    Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

_ROWS = 4
"""Rows of a bin: time, tokens, cached tokens, request-seconds. One more is for late tokens."""

_ROUNDS = 40
_GAP = 2e-4
_ADDED = 6
_PENALTY = 20.0
"""Price of a token that is not produced, relative to the dearest sensible one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeBound:
    """The bound and where it comes from.

    Attributes:
        energy_j: Least energy above idle.
        programme_j: Value of the linear programme over the points generated, above it.
        time_price_w: Marginal value of an instance's time in each bin.
        late_price_j: Marginal value of one more late token.
    """

    energy_j: float
    programme_j: float
    time_price_w: FloatArray
    late_price_j: float


class _Programme:
    """The restricted programme; columns are (bin, point)."""

    def __init__(
        self, points: OperatingPoints, demand: DecodeDemand, machines: int, may_be_late: float
    ) -> None:
        self.features = np.stack(
            (
                points.seconds,
                -points.requests,
                -points.kv_tokens,
                points.requests * points.seconds,
                points.late_tokens,
            ),
            axis=1,
        )
        self.joules, self.demand = points.joules, demand
        self.bins = len(demand.edges_s) - 1
        self.capacity_s = machines * np.diff(demand.edges_s)
        self.may_be_late = may_be_late
        self.cells = np.flatnonzero(np.diff(points.requests, prepend=-1.0))
        self.possible = self._possible(points.kv_tokens)
        self.columns: set[tuple[int, int]] = set()
        best = np.minimum.reduceat(points.joules / points.requests, self.cells).max()
        self.token_penalty_j = _PENALTY * float(best)
        self.scale = float(demand.most_kv_tokens[-1] / max(demand.most_tokens[-1], 1.0))

    def _possible(self, kv_tokens: FloatArray) -> list[Mask]:
        """Which points may run in each bin, by what can be there (`present`).

        Points are sorted by their batch and then by their cached tokens. Those of one batch stand
        for all batches above the one before, and a mixture of two neighbours in cached tokens for
        what lies between, so the neighbours of what is possible may run too.
        """
        largest = -self.features[:, 1]
        cell = np.searchsorted(self.cells, np.arange(len(largest)), side="right") - 1
        smallest = np.concatenate(([1.0], largest[self.cells][:-1] + 1.0))[cell]
        before, after = _neighbours(cell, kv_tokens)
        return [
            (smallest <= there.most)
            & (before <= there.most_kv_tokens(largest))
            & (after >= there.least_kv_tokens(smallest))
            for there in self.demand.present
        ]

    def solve(self) -> tuple[float, Grid, float]:
        """Value, prices of the rows of each bin, shape (bins, `_ROWS`), and price of lateness."""
        # Slow to import, and whoever reads a scenario imports this module.
        from scipy.optimize import linprog  # noqa: PLC0415
        from scipy.sparse import coo_array  # noqa: PLC0415

        bins, demand = self.bins, self.demand
        pairs = np.array(sorted(self.columns))
        features = self.features[pairs[:, 1]].copy()
        features[:, 2] /= self.scale
        count = len(pairs)
        column = np.arange(count)
        rows = [_ROWS * pairs[:, 0] + r for r in range(_ROWS)]
        rows.append(np.full(count, _ROWS * bins))
        data = [features[:, r] for r in range(_ROWS + 1)]
        columns = [column] * (_ROWS + 1)
        bin_rows = _ROWS * np.arange(bins)
        # After the points: tokens and cached tokens done by each bin, then those left undone.
        for kind in (0, 1):
            done = count + kind * bins + np.arange(bins)
            undone = count + (2 + kind) * bins + np.arange(bins)
            rows += [bin_rows + 1 + kind, bin_rows[1:] + 1 + kind, bin_rows + 1 + kind]
            columns += [done, done[:-1], undone]
            data += [np.ones(bins), -np.ones(bins - 1), -np.ones(bins)]
        shape = (_ROWS * bins + 1, count + 4 * bins)
        matrix = coo_array(
            (np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))), shape=shape
        ).tocsr()
        limits = np.zeros(shape[0])
        limits[bin_rows], limits[bin_rows + 3] = self.capacity_s, demand.request_seconds
        limits[-1] = self.may_be_late
        costs = np.concatenate(
            (self.joules[pairs[:, 1]], np.zeros(2 * bins), np.full(2 * bins, self.token_penalty_j))
        )
        kv_bounds = np.stack((demand.least_kv_tokens, demand.most_kv_tokens)) / self.scale
        bounds = np.full((shape[1], 2), (0.0, np.inf))
        bounds[count : count + bins] = np.stack((demand.least_tokens, demand.most_tokens)).T
        bounds[count + bins : count + 2 * bins] = kv_bounds.T
        solved = linprog(costs, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs")
        if solved.status != 0:
            raise VoltanaError(f"the decode programme was not solved: {solved.message}")
        prices: Grid = -np.asarray(solved.ineqlin.marginals)
        by_bin: Grid = prices[:-1].reshape(bins, _ROWS).copy()
        by_bin[:, 2] /= self.scale
        return float(solved.fun), by_bin, float(prices[-1])

    def generate(self, by_bin: Grid, late_price_j: float) -> float:
        """Add points of negative reduced cost; returns what they could still save at most, in J."""
        saving_j = 0.0
        weights = np.concatenate((by_bin, np.full((self.bins, 1), late_price_j)), axis=1)
        for k in range(self.bins):
            reduced = self.joules + self.features @ weights[k]
            reduced[~self.possible[k]] = np.inf
            lowest = np.minimum.reduceat(reduced, self.cells)
            per_second = float((reduced / self.features[:, 0]).min())
            if per_second >= 0:
                continue
            saving_j -= per_second * self.capacity_s[k]
            for cell in np.argsort(lowest)[:_ADDED]:
                if lowest[cell] < 0:
                    end = self.cells[cell + 1] if cell + 1 < len(self.cells) else len(reduced)
                    start = self.cells[cell]
                    self.columns.add((k, int(start + np.argmin(reduced[start:end]))))
        return saving_j


def _neighbours(
    cell: np.ndarray[tuple[int], np.dtype[np.intp]], kv_tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The next smaller and next larger cached tokens of each point's batch; infinite beyond them.

    Args:
        cell: Which batch each point belongs to, ascending, shape (points,).
        kv_tokens: Ascending within each, several points alike, shape (points,).
    """
    starts = np.flatnonzero(
        (np.diff(cell, prepend=-1) != 0) | (np.diff(kv_tokens, prepend=-1) != 0)
    )
    step = np.searchsorted(starts, np.arange(len(cell)), side="right") - 1
    steps, cells = kv_tokens[starts], cell[starts]
    inner = cells[1:] == cells[:-1]
    before = np.concatenate(([-np.inf], np.where(inner, steps[:-1], -np.inf)))
    after = np.concatenate((np.where(inner, steps[1:], np.inf), [np.inf]))
    return before[step], after[step]


def decode_bound(
    points: OperatingPoints, demand: DecodeDemand, *, machines: int, may_be_late: float
) -> DecodeBound:
    """Least energy above idle of decode.

    Args:
        points: Operating points of one instance.
        demand: What has to be done.
        machines: Number of instances.
        may_be_late: Expected number of tokens that may come later than the ITL threshold.

    Raises:
        VoltanaError: If the solver gives up.
    """
    programme = _Programme(points, demand, machines, may_be_late)
    best: DecodeBound | None = None
    weights: Grid = np.zeros((programme.bins, _ROWS))
    # A price of tokens at which many points pay, to start from.
    weights[:, 1] = 2.0 * float(np.median(points.joules / points.requests))
    programme.generate(weights, 0.0)
    for _ in range(_ROUNDS):
        value_j, weights, late_j = programme.solve()
        saving_j = programme.generate(weights, late_j)
        if best is None or value_j - saving_j > best.energy_j:
            best = DecodeBound(
                energy_j=float(value_j - saving_j),
                programme_j=value_j,
                time_price_w=weights[:, 0],
                late_price_j=late_j,
            )
        if saving_j <= _GAP * value_j:
            break
    assert best is not None
    return best
