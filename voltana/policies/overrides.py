"""What a user changes of a policy, whichever it is: the levels and the latency model.

The simulator and the agent beside an engine apply both through here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.levels import parse_levels
from voltana.policies.users_own import blame
from voltana.policy import call_factory, load_object
from voltana.ports import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.policy import InstanceContext, InstancePolicy, Policy


def with_overrides(
    policy: Policy,
    *,
    levels: str | None = None,
    predictor: str | None = None,
    read_device_mhz: Callable[[int], Sequence[float]] | None = None,
) -> Policy:
    """The same policy on the user's levels and latency model.

    A policy that knows levels or a latency model builds itself on those given. What another one
    asks for is raised to the next of the levels, as the loop does with every clock. A policy that
    predicts nothing, such as a fixed clock, has no use for the latency model.

    Args:
        policy: Decides and routes as before.
        levels: As in `voltana.levels.parse_levels`; None leaves them to the policy.
        predictor: ``MODULE:FACTORY`` of a latency model, made anew for each instance whose context
            brings none; None leaves it to the policy.
        read_device_mhz: As in `voltana.levels.parse_levels`.

    Raises:
        ConfigError: If the levels are none. When the instances are built: if a device supports
            none of them, or the reference leads nowhere, or to something else.
    """
    if levels is None and predictor is None:
        return policy
    chosen = None if levels is None else parse_levels(levels, read_device_mhz=read_device_mhz)

    def control(context: InstanceContext) -> InstancePolicy:
        if predictor is not None and context.predictor is None:
            context = dataclasses.replace(context, predictor=load_predictor(predictor, context))
        if chosen is None:
            return policy.control(context)
        levels_mhz = chosen.levels(context.table_mhz)
        made = policy.control(dataclasses.replace(context, levels_mhz=levels_mhz))
        return dataclasses.replace(made, levels_mhz=levels_mhz)

    return dataclasses.replace(policy, control=control)


def load_predictor(
    reference: str, context: InstanceContext, *, field: str = "predictor"
) -> Predictor:
    """A user's own latency model for one instance.

    Args:
        reference: ``MODULE:FACTORY``; the factory takes nothing or the context.
        context: What is known of the instance.
        field: What errors call the reference.

    Raises:
        ConfigError: If the reference leads nowhere, or to something else, or the factory fails.
    """
    with blame(reference, field=field):
        made = call_factory(load_object(reference, field=field), context)
    if not isinstance(made, Predictor):
        raise ConfigError(
            f"{field} = {reference!r} made {type(made).__name__}: must have forecast(), learn() "
            "and snapshot(). See docs/testing.md."
        )
    return made
