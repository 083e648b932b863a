"""One iteration of an instance: its latency, its power, and the clock that the board really holds.

The limit on a board's power is held by lowering the clock until the average power over the
iteration meets it, as the driver's own control does within milliseconds.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, NamedTuple

from voltana.plant.latency import LatencyModel
from voltana.plant.power import PowerModel
from voltana.plant.tables import ClockTable, Work
from voltana.plant.weight_formats import weight_format
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile
    from voltana.values import Load

    _Point = tuple[float, float, float]

_OFF_GRID_TABLES = 64
"""Tables kept for clocks that the board does not support but may pass through."""


class Iteration(NamedTuple):
    """What an iteration takes.

    Attributes:
        latency_s: Its latency.
        power_w: Average power of all boards of the instance together.
        clock_mhz: Clock that they hold, the requested one unless the power limit lowers it.
    """

    latency_s: float
    power_w: float
    clock_mhz: float


make_iteration = tuple_maker(Iteration)


class PlantModel:
    """Latency and power of the iterations of one instance.

    Calls change nothing but caches, so one model may serve all instances of a kind.

    Args:
        hardware: Its boards.
        model: The model that it serves.
        tensor_parallel: How many boards it has.
    """

    def __init__(
        self, hardware: HardwareProfile, model: ModelProfile, tensor_parallel: int = 1
    ) -> None:
        self.hardware = hardware
        self.model = model
        self.tensor_parallel = tensor_parallel
        self.latency = LatencyModel(hardware, model, tensor_parallel)
        self.power = PowerModel(hardware, weight_format(model.layer_dtype).arithmetic)
        self._work = Work(self.latency)
        self._grid = hardware.clocks_mhz
        self._on_grid = frozenset(self._grid)
        self._tables: dict[float, ClockTable] = {}
        self._passing: dict[float, ClockTable] = {}
        self._rungs = {True: len(self._grid) - 1, False: len(self._grid) - 1}

    def iterate(self, load: Load, clock_mhz: float) -> Iteration:
        """Run an iteration.

        Args:
            load: What it computes; an empty load takes no time.
            clock_mhz: Clock that is asked for; above the fastest one the board stays at that.
        """
        table = self._tables.get(clock_mhz) or self._table(clock_mhz)
        seconds, joules = table.step(load)
        boards = self.tensor_parallel
        if joules > self.power.limit_w * seconds:
            return self._limited(load, table)
        if not seconds:
            return Iteration(0.0, self.idle_power_w(clock_mhz), table.clock_mhz)
        return make_iteration(seconds, boards * joules / seconds, table.clock_mhz)

    def latency_s(self, load: Load, clock_mhz: float) -> float:
        """Latency of an iteration when `clock_mhz` is asked for, in s."""
        return self.iterate(load, clock_mhz).latency_s

    def power_w(self, load: Load, clock_mhz: float) -> float:
        """Average power of all boards when `clock_mhz` is asked for, in W."""
        return self.iterate(load, clock_mhz).power_w

    def energy_j(self, load: Load, clock_mhz: float) -> float:
        """Energy of an iteration on all boards when `clock_mhz` is asked for, in J."""
        latency_s, power_w, _ = self.iterate(load, clock_mhz)
        return latency_s * power_w

    def idle_power_w(self, clock_mhz: float) -> float:
        """Power of all boards while they wait, in W."""
        return self.tensor_parallel * self.power.idle_w(clock_mhz)

    def _table(self, clock_mhz: float) -> ClockTable:
        clock_mhz = min(clock_mhz, self._grid[-1])
        if clock_mhz in self._tables:
            return self._tables[clock_mhz]
        if clock_mhz in self._passing:
            return self._passing[clock_mhz]
        table = ClockTable(self.latency, self.power, self._work, clock_mhz)
        if clock_mhz in self._on_grid:
            self._tables[clock_mhz] = table
            return table
        if len(self._passing) >= _OFF_GRID_TABLES:
            self._passing.clear()
        self._passing[clock_mhz] = table
        return table

    def _limited(self, load: Load, asked: ClockTable) -> Iteration:
        """The iteration at the fastest clock that holds the limit.

        Power and latency are taken as linear between two supported clocks.
        """
        limit_w, boards = self.power.limit_w, self.tensor_parallel
        (low_mhz, low_s, low_j), (high_mhz, high_s, high_j) = self._bracket(load, asked)
        low_w, high_w = low_j / low_s, high_j / high_s
        if low_w > limit_w:
            return Iteration(low_s, boards * low_w, low_mhz)
        share = (limit_w - low_w) / (high_w - low_w)
        return Iteration(
            low_s + share * (high_s - low_s),
            boards * limit_w,
            low_mhz + share * (high_mhz - low_mhz),
        )

    def _bracket(self, load: Load, asked: ClockTable) -> tuple[_Point, _Point]:
        """Neighbouring clocks below and above the limit; the lowest clock twice if none is below.

        The search starts where the last one for such a load ended, for loads change little from
        one iteration to the next.
        """
        grid, limit_w = self._grid, self.power.limit_w
        top = bisect.bisect_left(grid, asked.clock_mhz)
        prefills = load.prefill_tokens > 0
        rung = max(0, min(self._rungs[prefills], top - 1))
        below, above = self._point(load, rung), None
        while below[2] > limit_w * below[1]:
            if not rung:
                return below, below
            above, rung = below, rung - 1
            below = self._point(load, rung)
        while above is None:
            if rung + 1 >= top:
                above = (asked.clock_mhz, *asked.step(load))
                break
            candidate = self._point(load, rung + 1)
            if candidate[2] > limit_w * candidate[1]:
                above = candidate
            else:
                below, rung = candidate, rung + 1
        self._rungs[prefills] = rung
        return below, above

    def _point(self, load: Load, rung: int) -> _Point:
        clock_mhz = self._grid[rung]
        table = self._tables.get(clock_mhz) or self._table(clock_mhz)
        return (clock_mhz, *table.step(load))
