"""EnergyOptimal: the safe decode clock of least predicted power, with an eye on where it leads.

Requests arrive at a rate that does not depend on the clock (an open loop), so a decode instance
produces the same tokens per second at any clock that keeps up, and what counts is energy over time:
power. A slower clock makes iterations longer and so, by Little's law, the batch larger, until its
KV cache is full, requests wait for room, and no clock makes up for it. A controller that looks at
the coming iteration alone runs slowly until it is there, and then has to run at the fastest clock,
which costs more than the middle one that would have been enough, power being convex in the clock.
So clocks below a floor count as unsafe, and the floor rises with the memory that will be used some
seconds ahead: a proportional-derivative control of the pressure.

J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.memory_floor import Memory, MemoryFloor
from voltana.errors import invalid
from voltana.levels import idle_clock, require_levels
from voltana.planning import certified_or_fastest, cheapest_safe_index
from voltana.values import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo
    from voltana.values import FloatArray, Observation


class EnergyOptimal:
    """Satisfies `voltana.ports.Controller`; its forecast is the one that the loop scores.

    Prefill has to fit what is left of the TTFT threshold, and mixed batches both.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        power: Power model, taught by the loop from energy windows.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        memory: See `Memory`.
        settle_s: Time that a change of clock takes.
        horizon_s: A slower clock has to save, over this time, more than the energy of settling.
        idle_mhz: Clock to wait at; None takes the lowest level.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        power: PowerPredictor,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        memory: Memory | None = None,
        settle_s: float = 0.035,
        horizon_s: float = 2.0,
        idle_mhz: float | None = None,
    ) -> None:
        if not 0 <= settle_s < math.inf:
            raise invalid("settle_s", settle_s, "0 s or more, finite", "0 prices no change.")
        if not 0 < horizon_s < math.inf:
            raise invalid("horizon_s", horizon_s, "above 0 s, finite", "2 s is usual.")
        self.predictor = predictor
        self.power = power
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._floor = MemoryFloor(memory or Memory(), self._levels)
        self._change_price = settle_s / horizon_s
        self._idle_mhz = idle_clock(self.levels_mhz, idle_mhz)

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, queue = observation.load, observation.queue
        lowest = self._floor.lowest_index(load, observation.now_s, self.predictor)
        if not load.prefill_tokens and not load.decode_requests:
            return Decision(clock_mhz=self._idle_mhz, reason="idle: wait slowly")
        budget_s = self._slo.decode_budget_s() if load.decode_requests else math.inf
        if load.prefill_tokens:
            budget_s = min(budget_s, self._slo.prefill_budget_s(queue))
        forecast = self.predictor.forecast(load, self._levels)
        if queue.requests > 0:
            lowest = self._floor.quick_index(forecast.mean_s)
        cost_w = self.power.forecast_w(load, self._levels)
        index = cheapest_safe_index(forecast.upper_s[lowest:], cost_w[lowest:], budget_s)
        if index is not None:
            index = self._worth_changing(lowest + index, cost_w, observation.target_mhz)
        return certified_or_fastest(forecast, index, budget_s)

    def _worth_changing(self, index: int, cost_w: FloatArray, target_mhz: float) -> int:
        """`index`, or the level that is in force if slowing down does not pay for settling."""
        in_force = int(self._levels.searchsorted(target_mhz - 1e-6)) if target_mhz > 0 else -1
        if not index < in_force < len(self.levels_mhz):
            return index
        saved_w = cost_w[in_force] - cost_w[index]
        return index if saved_w > self._change_price * cost_w[in_force] else in_force

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"EnergyOptimal({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"
