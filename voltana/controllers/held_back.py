"""What boards at their power limit really do: the fastest level that they hold, not the one asked.

A board that would draw more than its limit lowers its clock by itself. A latency model that learns
against the clock achieved then expects of the levels above what no board delivers: of Qwen3-32B on
two A100, 3 % more tokens per second than there are. A plan that stands on them takes a demand for
one that can be served.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.operating import power_curve_of
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.ports import PowerForecasts
    from voltana.values import FloatArray, Table
    from voltana.viability import BatchTable


class Held(NamedTuple):
    """The fastest clock that is held, between two levels.

    Attributes:
        over: Index of the slowest level that is not held, at least 1.
        part: Where between the level below it and that one the clock lies, from 0 to 1.
    """

    over: int
    part: float

    def least_s(self, time_s: FloatArray | Table) -> FloatArray:
        """What something takes at that clock.

        Args:
            time_s: What it takes at every level if that is held, shape (..., l).
        """
        below_s, above_s = time_s[..., self.over - 1], time_s[..., self.over]
        least_s: FloatArray = below_s + self.part * (above_s - below_s)
        return least_s


def held_clock(
    power: PowerForecasts, load: Load, levels_mhz: FloatArray, max_power_w: float
) -> Held | None:
    """The fastest clock that boards hold; None where that is the fastest level.

    Args:
        power: Power model of the instance.
        load: What they compute.
        levels_mhz: Clocks, ascending.
        max_power_w: Power limit of all its devices.
    """
    curve = power_curve_of(power, load)
    if curve is not None and not curve.power_w(float(levels_mhz[-1])) > max_power_w:
        return None  # as mostly: power never falls with the clock, and the fastest is within it
    power_w = power.forecast_w(load, levels_mhz)
    over = int((power_w > max_power_w).argmax())
    if not over or not power_w[over] > max_power_w:
        return None
    part = float((max_power_w - power_w[over - 1]) / (power_w[over] - power_w[over - 1]))
    return Held(over, part)


def held_back(
    table: BatchTable, power: PowerForecasts, batch: int, max_power_w: float
) -> BatchTable:
    """The table with no iteration shorter than where power reaches the limit.

    Args:
        table: Iterations of every batch at the permitted levels.
        power: Power model of the instance.
        batch: Batch whose power is asked for: the largest viable one draws the most.
        max_power_w: Power limit of all its devices.
    """
    load = Load.decode(batch, int(table.kv_tokens[table.row(batch)]))
    held = held_clock(power, load, table.levels_mhz, max_power_w)
    if held is None:
        return table
    least_s = held.least_s(table.mean_s)
    return dataclasses.replace(table, mean_s=np.maximum(table.mean_s, least_s[:, None]))
