"""A wrapper that parks an idle instance where idling and waking together cost the least.

An idle device draws less at a lower clock, but work that comes meanwhile begins at the clock that
it was parked at: until the change to a faster one has settled, a part of the device's time is lost
in proportion to the difference. So the level at which to park follows from how long the instance
will be idle still. For gaps shorter than the settling it stays where it is, which saves two changes
of the clock, and one that has been idle for long goes to the cheapest idle state.

S. Irani, S. Shukla, R. Gupta, "Algorithms for power savings", ACM Trans. Algorithms 3(4), 2007, for
states of idling and their price of waking.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.controllers.waking import SETTLED_S
from voltana.controllers.wrapper import ControllerWrapper
from voltana.errors import invalid
from voltana.operating import power_at
from voltana.ports import FreezesPower, HasLevels
from voltana.values import Decision, Load
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from voltana.ports import Controller, PowerForecasts
    from voltana.values import FloatArray, Observation

make_decision = maker(Decision)

IDLE = Load()


class _Known(NamedTuple):
    """Costs as a power model gave them for the last work and its clock."""

    frozen: object
    work: tuple[Load, float]
    costs: tuple[FloatArray, FloatArray]


PARKED = "idle: parked"


class Parked(ControllerWrapper):
    """Raises the clock of decisions on nothing where that costs less; all others pass as they are.

    Args:
        controller: Decides what is computed.
        power: Power model of the instance, as the loop teaches it.
        settle_s: Time that is lost where the clock has to rise from 0; half of what a change takes
            until it has settled, as the clock rises meanwhile.
        gaps: Idle stretches whose mean counts as the usual one.

    Raises:
        ConfigError: If an argument is outside its range, or the controller does not say its levels.
    """

    def __init__(
        self,
        controller: Controller,
        power: PowerForecasts,
        *,
        settle_s: float = SETTLED_S / 2,
        gaps: int = 20,
    ) -> None:
        if not 0 <= settle_s < math.inf:
            raise invalid("settle_s", settle_s, "0 s or more, finite", "0 prices no waking.")
        if gaps < 1:
            raise invalid("gaps", gaps, "1 or more", "20 is usual.")
        super().__init__(controller)
        if not isinstance(self, HasLevels):
            raise invalid("controller", controller, "one with levels_mhz", "Give it its levels.")
        self._levels = np.array(self.levels_mhz, dtype=np.float64)
        self._power = power
        self._freezes = power if isinstance(power, FreezesPower) else None
        self._settle_s = settle_s
        self._gaps = gaps
        self._gap_s = 0.0
        self._idle_since_s = math.nan
        self._work, self._work_mhz = IDLE, 0.0
        self._lost: tuple[float, FloatArray] | None = None  # time to wake, by the clock of the work
        self._known: _Known | None = None

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        load, now_s = observation.load, observation.now_s
        if load.prefill_tokens or load.decode_requests:
            if self._idle_since_s == self._idle_since_s:
                self._gap_s += (now_s - self._idle_since_s - self._gap_s) / self._gaps
                self._idle_since_s = math.nan
            self._work, self._work_mhz = load, decision.clock_mhz
            return decision
        if not self._idle_since_s <= now_s:
            self._idle_since_s = now_s
        if not self._work_mhz > 0:  # it has never worked
            return decision
        cost_j = self.costs_j(max(self._gap_s, now_s - self._idle_since_s))
        if not math.isfinite(np.add.reduce(cost_j)):
            return decision
        least = int(self._levels.searchsorted(decision.clock_mhz - 1e-6))
        if least >= len(cost_j):  # it is to wait faster than at any level
            return decision
        return make_decision(
            clock_mhz=float(self._levels[least + int(cost_j[least:].argmin())]),
            reason=PARKED,
            status=decision.status,
            forecast=decision.forecast,
            budget_s=decision.budget_s,
            promise=decision.promise,
            binding=decision.binding,
        )

    def costs_j(self, idle_s: float) -> FloatArray:
        """Energy of idling for `idle_s` and of waking to the last work, at every level."""
        idle_w, waking_j = self._idling()
        return idle_w * idle_s + waking_j

    def _idling(self) -> tuple[FloatArray, FloatArray]:
        """Power of idling and energy of waking, at every level; the same until the model learns."""
        frozen = None if self._freezes is None else self._freezes.snapshot()
        work, known = (self._work, self._work_mhz), self._known
        if frozen is None or known is None or known.frozen is not frozen or known.work != work:
            known = self._known = _Known(frozen, work, self._work_out())
        return known.costs

    def _work_out(self) -> tuple[FloatArray, FloatArray]:
        idle_w = self._power.forecast_w(IDLE, self._levels)
        work_w = power_at(self._power, self._work, self._work_mhz)
        if self._lost is None or self._lost[0] != self._work_mhz:
            share = np.maximum(0.0, 1.0 - self._levels / self._work_mhz)
            self._lost = self._work_mhz, self._settle_s * share
        lost_s = self._lost[1]
        return idle_w, np.maximum(0.0, work_w - idle_w) * lost_s

    def __repr__(self) -> str:
        return f"Parked({self.controller!r})"
