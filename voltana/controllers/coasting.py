"""Coasting: below the batch at which the demand settles, which tokens are better served later.

A batch that is smaller than the settled one grows towards it at any clock that serves less than is
demanded. Tokens that are put off meanwhile are served at the settled batch, where one reading of
the weights serves more of them. So what counts is the power saved against the settled power, for
each token that is put off. That is the fluid limit of the average-cost problem: with g its least
average power and V the value of a batch, the Hamilton-Jacobi-Bellman equation

    g = min over f of  P(n, f) + V'(n) (D - r(n, f))

is solved by the level of the greatest (g - P(n, f)) / (D - r(n, f)) among those with r(n, f) < D.

D. P. Bertsekas, "Dynamic Programming and Optimal Control" II (2012), 5; S. P. Meyn, "Control
Techniques for Complex Networks" (2008), 3, for fluid models of queues.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.operating import power_at
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.ports import PowerForecasts
    from voltana.viability import BatchTable


def coasting_index(
    table: BatchTable,
    power: PowerForecasts,
    *,
    batch: int,
    demand_per_s: float,
    settling: int,
    settled_row: int,
) -> int:
    """Index of the level at which to grow, at most `settling`.

    Args:
        table: Iterations of every batch at the permitted levels.
        power: Power model of the instance.
        batch: Requests that run; fewer than settle.
        demand_per_s: Tokens/s that are demanded; more than no level would serve.
        settling: Index of the level that settles.
        settled_row: Row of the batch at which it does.
    """
    levels_mhz, row = table.levels_mhz[: settling + 1], table.row(batch)
    share = batch / float(table.batches[row])
    put_off_per_s = demand_per_s - share * table.rate_per_s[row, : settling + 1]
    now = Load.decode(batch, int(share * table.kv_tokens[row]))
    settled_w = _settled_w(table, power, demand_per_s, settling, settled_row)
    saved_w = settled_w - power.forecast_w(now, levels_mhz)
    grows = put_off_per_s > 0.0
    worth = np.divide(saved_w, put_off_per_s, out=np.full(len(saved_w), -math.inf), where=grows)
    index = int(worth.argmax())
    return index if worth[index] > 0.0 else settling


def _settled_w(
    table: BatchTable, power: PowerForecasts, demand_per_s: float, settling: int, row: int
) -> float:
    """g: power where the demand settles."""
    batch = demand_per_s * float(table.mean_s[row, settling])  # Little's law
    share = min(batch / float(table.batches[row]), 1.0)
    load = Load.decode(
        math.ceil(share * float(table.batches[row])), int(share * float(table.kv_tokens[row]))
    )
    return power_at(power, load, float(table.levels_mhz[settling]))
