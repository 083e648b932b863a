"""The policy `voltana`: what this library makes of its own parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.controllers.energy_optimal import EnergyOptimal, Memory
from voltana.controllers.fixed import FixedClock
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.supervisor import Supervised
from voltana.levels import EvenlySpaced
from voltana.policy import InstancePolicy
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.values import Role

if TYPE_CHECKING:
    from voltana.policy import InstanceContext
    from voltana.ports import Controller

LEVELS = 28

LOWEST_SHARE = {Role.PREFILL: 0.7, Role.DECODE: 0.4, Role.COLOCATED: 0.7}
"""Lowest clock over the fastest, by role. A decode instance is busy at any clock, so its energy
falls with its power; prefill is a fixed amount of work, which far below the voltage's floor only
takes longer."""

BOUND_DEVIATIONS = 3.0
"""Width of the bound that has to fit: a gap between two tokens in a thousand may be longer."""


def latency_model(context: InstanceContext) -> EcoPred:
    """EcoPred from physics; where nothing is known of the device and the model, from nothing."""
    if not context.datasheet:
        return EcoPred(max_clock_mhz=context.table_mhz[-1], bound_deviations=BOUND_DEVIATIONS)
    return EcoPred.from_datasheet(context.datasheet, bound_deviations=BOUND_DEVIATIONS)


def voltana(context: InstanceContext) -> InstancePolicy:
    """Deadlines for prefill, least power at the settled batch for decode, both learned online."""
    table_mhz, slo = context.table_mhz, context.slo
    predictor = context.predictor or latency_model(context)
    power = context.power or LinearPower(
        max_clock_mhz=table_mhz[-1], max_power_w=context.max_power_w
    )
    lowest_mhz = LOWEST_SHARE[context.role] * table_mhz[-1]
    levels = EvenlySpaced(LEVELS, min_mhz=lowest_mhz).levels(table_mhz)
    controller: Controller
    if context.role is Role.DECODE:
        memory = Memory(
            capacity_tokens=context.kv_capacity_tokens, reserved_tokens=context.kv_reserved_tokens
        )
        controller = EnergyOptimal(predictor, power, levels, slo, memory=memory)
    else:
        controller = OptimalAvailable(predictor, power, levels, slo)
    return InstancePolicy(
        controller=Supervised(controller, fallback=FixedClock.max(table_mhz)),
        levels_mhz=levels,
        predictor=predictor,
        power=power,
    )
