"""Schedules of clocks and routes for one trace, and the policy that follows one."""

from __future__ import annotations

import dataclasses
import enum
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from voltana.controllers.ecofreq import EcoFreq
from voltana.controllers.wrapper import ControllerWrapper
from voltana.policies import routing
from voltana.policies.default import LEVELS, clock_levels, models, voltana
from voltana.policies.named import get_policy
from voltana.policy import InstancePolicy
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.policy import InstanceContext, Policy
    from voltana.ports import Controller
    from voltana.values import Decision, Observation

_T = TypeVar("_T")

POLICY, FOUND = "voltana", "hindsight"
BIN_S = 10.0

ROUTING = (
    routing.within_boundaries,
    routing.least_power,
    routing.around_boundaries,
    routing.in_turn,
)
"""Ways to route decode: the policy's, without waiting, without sleeping, and as published."""

STEPS = 8
"""Levels by which a clock may differ from the policy's own."""


class Base(enum.StrEnum):
    """What the numbers of decode in a schedule mean.

    OWN: levels above or below the clock that the policy itself wants.
    LOWEST: the lowest level, in place of the policy; a faster one where the threshold needs it.
    """

    OWN = "own"
    LOWEST = "lowest"


class Schedule(NamedTuple):
    """What hindsight decides; clocks are one for each `BIN_S`.

    Attributes:
        base: What `decode` means.
        decode: See `Base`.
        prefill: Levels by which prefill is faster than the policy wants.
        route: Index of the way to route.
    """

    base: Base
    decode: tuple[int, ...]
    prefill: tuple[int, ...]
    route: int = 0

    def moved(self, part: int, step: int) -> Schedule:
        """The schedule with one of its bins moved; those of prefill follow those of decode."""
        bins = len(self.decode)
        clocks = [*self.decode, *self.prefill]
        absolute = part < bins and self.base is Base.LOWEST
        low, high = (0, LEVELS - 1) if absolute else (-STEPS, STEPS)
        clocks[part] = min(max(clocks[part] + step, low), high)
        return self._replace(decode=tuple(clocks[:bins]), prefill=tuple(clocks[bins:]))


class Stepped(ControllerWrapper):
    """Clocks of `controller`, so many levels faster or slower as a schedule says for the time."""

    def __init__(
        self, controller: Controller, levels_mhz: tuple[float, ...], steps: tuple[int, ...]
    ) -> None:
        super().__init__(controller)
        self._levels_mhz = levels_mhz
        self._steps = steps

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        step = _at(self._steps, observation)
        if not step or not _works(observation):
            return decision
        wanted = bisect_left(self._levels_mhz, decision.clock_mhz - 1e-6)
        index = min(max(wanted + step, 0), len(self._levels_mhz) - 1)
        return dataclasses.replace(decision, clock_mhz=self._levels_mhz[index])


class Floored(ControllerWrapper):
    """Clocks of `controller`, raised to what a schedule says for the time."""

    def __init__(
        self, controller: Controller, levels_mhz: tuple[float, ...], floors: tuple[int, ...]
    ) -> None:
        super().__init__(controller)
        self._floors_mhz = tuple(levels_mhz[index] for index in floors)

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        decision = self.controller.decide(observation)
        if not _works(observation):
            return decision
        lowest_mhz = _at(self._floors_mhz, observation)
        return dataclasses.replace(decision, clock_mhz=max(decision.clock_mhz, lowest_mhz))


def under(schedule: Schedule) -> Policy:
    """The default policy under a schedule; with nothing but zeros, as it is."""

    def control(context: InstanceContext) -> InstancePolicy:
        decode = context.role is Role.DECODE
        if decode and schedule.base is Base.LOWEST:
            return _lowest(context, schedule.decode)
        made = voltana(context)
        steps = schedule.decode if decode else schedule.prefill
        return dataclasses.replace(
            made, controller=Stepped(made.controller, made.levels_mhz, steps)
        )

    return dataclasses.replace(
        get_policy(POLICY), name=FOUND, control=control, decode_router=ROUTING[schedule.route]
    )


def _lowest(context: InstanceContext, floors: tuple[int, ...]) -> InstancePolicy:
    """The lowest safe level of the same models, raised to a schedule's."""
    predictor, power = models(context)
    levels = clock_levels(context)
    return InstancePolicy(
        controller=Floored(EcoFreq(predictor, levels, context.slo), levels, floors),
        levels_mhz=levels,
        predictor=predictor,
        power=power,
    )


def _works(observation: Observation) -> bool:
    return bool(observation.load.prefill_tokens or observation.load.decode_requests)


def _at(values: Sequence[_T], observation: Observation) -> _T:
    return values[min(int(observation.now_s / BIN_S), len(values) - 1)]
