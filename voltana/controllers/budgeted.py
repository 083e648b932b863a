"""A wrapper that keeps one instance within its part of a shared power budget."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.lateness import Lateness
from voltana.controllers.power_claim import Claim
from voltana.controllers.sliding_peak import SlidingPeak
from voltana.controllers.wrapper import ControllerWrapper
from voltana.errors import invalid
from voltana.levels import require_levels, resolve
from voltana.planning import certified_status
from voltana.values import Binding, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.controllers.power_budget import PowerBudget
    from voltana.ports import Controller, PowerPredictor
    from voltana.values import Decision, FloatArray, Load, Observation

PEAK_S = 1.0
"""How long a wish is remembered: work comes in bursts."""


class Budgeted(ControllerWrapper):
    """Asks for the highest level up to the wished one whose predicted power fits the budget.

    The reservation holds for the clock asked for, once it has settled. An operator's lower limit on
    the clock wins over the budget, as it does over every controller.

    Args:
        controller: Decides what is wished for.
        power: Power model, taught by the loop.
        levels_mhz: Clocks to choose from, ascending; the wished ones and lower ones.
        budget: Shared by all instances of the cluster.
        instance: Name of the instance, unique in the cluster.
        busiest: Load of greatest power, from which the floor follows.
        error: By what share of it real power may exceed the predicted one.
        lateness: Says how late the instance would be at each level; None takes the forecasts of
            decisions alone.

    Raises:
        ConfigError: If an argument is outside its range, or the budget does not cover the floors.
    """

    def __init__(
        self,
        controller: Controller,
        power: PowerPredictor,
        levels_mhz: Sequence[float],
        budget: PowerBudget,
        *,
        instance: str,
        busiest: Load,
        error: float = 0.05,
        lateness: Lateness | None = None,
    ) -> None:
        if not 0 <= error < math.inf:
            raise invalid("error", error, "0 or more, finite", "0.05 is 5 %.")
        super().__init__(controller)
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._power = power
        self._budget = budget
        self._instance = instance
        self._busiest = busiest
        self._error = error
        self._late = lateness or Lateness()
        self._peak = SlidingPeak(PEAK_S)
        budget.register(instance, self._floor_w())

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        self._late.learn(observation)
        wanted = self.controller.decide(observation)
        levels_w = self._bound_w(observation.load)
        busy_w = max(self._floor_w(), float(levels_w[0]))
        idle = observation.load.phase is Phase.IDLE
        floor_w = float(levels_w[0]) if idle else busy_w
        wish = self.levels_mhz.index(resolve(wanted.clock_mhz, self.levels_mhz, observation.bounds))
        late, holds_s = self._late.timing(observation, wanted, self._levels[: wish + 1])
        claim = Claim(
            floor_w=floor_w,
            wake_w=busy_w - floor_w,
            levels_w=levels_w[: wish + 1],
            lateness=late,
            peak_w=self._peak.add(observation.now_s, float(levels_w[wish])),
            holds_s=0.0 if idle else holds_s,
        )
        granted_w = self._budget.grant_w(self._instance, observation.now_s, claim)
        index = int(claim.levels_w.searchsorted(granted_w + 1e-9, side="right")) - 1
        index = max(index, 0)
        self._reserve(observation, levels_w, floor_w, index, granted_w)
        return self._capped(wanted, index) if index < wish else wanted

    def _bound_w(self, load: Load) -> FloatArray:
        """Power at every level, its error included; a faster clock never counts as cheaper."""
        forecast_w = self._power.forecast_w(load, self._levels)
        bound_w: FloatArray = np.maximum.accumulate((1.0 + self._error) * forecast_w)
        return bound_w

    def _floor_w(self) -> float:
        lowest_w = self._power.forecast_w(self._busiest, self._levels[:1])
        return (1.0 + self._error) * float(lowest_w[0])

    def _reserve(
        self,
        observation: Observation,
        levels_w: FloatArray,
        floor_w: float,
        index: int,
        granted_w: float,
    ) -> None:
        # Until a lower clock is in force the others may not take what it will free.
        in_force = int(self._levels.searchsorted(observation.clock_mhz + 1e-6, side="right")) - 1
        held_w = float(levels_w[max(index, min(in_force, len(levels_w) - 1))])
        needed_w = max(float(levels_w[index]), floor_w)
        # A lower limit on the clock, imposed from outside, is drawn whatever was granted.
        least = resolve(0.0, self.levels_mhz, observation.bounds)
        needed_w = max(needed_w, float(levels_w[self.levels_mhz.index(least)]))
        self._budget.reserve(
            self._instance,
            max(needed_w, min(held_w, granted_w)),
            fits=needed_w <= granted_w + 1e-6,
        )

    def _capped(self, wanted: Decision, index: int) -> Decision:
        self._budget.capped += 1
        clock_mhz = self.levels_mhz[index]
        return dataclasses.replace(
            wanted,
            clock_mhz=clock_mhz,
            reason="power budget",
            binding=Binding.POWER_BUDGET,
            status=certified_status(
                wanted.forecast, wanted.budget_s, clock_mhz=clock_mhz, achieved_mhz=math.nan
            ),
        )

    def __repr__(self) -> str:
        return f"Budgeted({self.controller!r}, {self._budget.budget_w:g} W)"
