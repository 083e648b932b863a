"""The policy `voltana`: what this library makes of its own parts.

`voltana.policies.routing` has its routers: `filled_up` for prefill, `within_boundaries` for decode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.controllers.both_phases import BothPhases
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.controllers.fixed import FixedClock
from voltana.controllers.memory import Memory
from voltana.controllers.optimal_available import OptimalAvailable
from voltana.controllers.parked import Parked
from voltana.controllers.supervisor import Supervised
from voltana.levels import EvenlySpaced
from voltana.policy import InstancePolicy
from voltana.predictors.conformal import PROFILED_MARGIN, Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.promise import Statement
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.policy import InstanceContext
    from voltana.ports import Controller, PowerPredictor, Predictor

LEVELS = 28

LOWEST_SHARE = {Role.PREFILL: 0.5, Role.DECODE: 0.4, Role.COLOCATED: 0.4}
"""Lowest clock over the fastest, by role. A decode instance is busy at any clock, so its energy
falls with its power; prefill is a fixed amount of work, which far below the voltage's floor takes
no less, though its batches grow a little and with them what one reading of the weights serves."""

PROMISE = Statement(alpha=0.006, gamma=0.02, q_cert=10.0, delay=2)
"""Certified iterations that may exceed their budget, in the long run (docs/guarantee.md).

What ends certificates is the budget, which the margin has to fit with the mean. `q_cert` is beyond
what one leaves: were it within what noise asks for, nothing would be certified while that lasts,
and the fastest clock would run.
"""


def latency_model(context: InstanceContext) -> EcoPred:
    """EcoPred from physics; where nothing is known of the device and the model, from nothing."""
    if not context.datasheet:
        return EcoPred(max_clock_mhz=context.table_mhz[-1])
    return EcoPred.from_datasheet(context.datasheet)


def guarded(learner: Predictor) -> Conformal:
    """`learner` under the guarantee."""
    return Conformal(learner, PROMISE, first=PROFILED_MARGIN)


def power_model(context: InstanceContext) -> LinearPower:
    """LinearPower from the power limit of the instance."""
    return LinearPower(max_clock_mhz=context.table_mhz[-1], max_power_w=context.max_power_w)


def voltana(context: InstanceContext) -> InstancePolicy:
    """Deadlines for prefill, least power at the settled batch for decode, gaps where they share."""
    predictor, power = models(context)
    levels = clock_levels(context)
    controller: Controller
    if context.role is Role.DECODE:
        memory = kv_memory(context)
        controller = EnergyOptimal(
            predictor,
            power,
            levels,
            context.slo,
            memory=memory,
            max_power_w=context.max_power_w,
        )
    elif context.role is Role.COLOCATED:
        controller = BothPhases(
            predictor,
            power,
            levels,
            context.slo,
            memory=kv_memory(context),
            max_power_w=context.max_power_w,
            max_batch_tokens=context.max_batch_tokens,
        )
    else:
        controller = OptimalAvailable(
            predictor,
            power,
            levels,
            context.slo,
            max_batch_tokens=context.max_batch_tokens,
        )
    return InstancePolicy(
        controller=Supervised(
            Parked(controller, power), fallback=FixedClock.max(context.table_mhz)
        ),
        levels_mhz=levels,
        predictor=predictor,
        power=power,
    )


def models(context: InstanceContext) -> tuple[Predictor, PowerPredictor]:
    """What is learned of an instance: its latency, under the guarantee, and its power."""
    learner = context.predictor or latency_model(context)
    predictor = learner if isinstance(learner, Conformal) else guarded(learner)
    return predictor, context.power or power_model(context)


def clock_levels(context: InstanceContext, count: int = LEVELS) -> tuple[float, ...]:
    """The user's levels, else `count` clocks from the lowest of the role to the fastest."""
    return context.levels_mhz or levels_of_role(context.role, context.table_mhz, count)


def levels_of_role(
    role: Role, table_mhz: Sequence[float], count: int = LEVELS
) -> tuple[float, ...]:
    """`count` clocks, evenly spaced from the lowest of a role to the fastest."""
    lowest_mhz = LOWEST_SHARE[role] * table_mhz[-1]
    return EvenlySpaced(count, min_mhz=lowest_mhz).levels(table_mhz)


def kv_memory(context: InstanceContext) -> Memory:
    """The KV cache of the instance, as the controller has to know it."""
    return Memory(
        capacity_tokens=context.kv_capacity_tokens,
        reserved_tokens=context.kv_reserved_tokens,
        max_requests=context.max_running_requests,
    )
