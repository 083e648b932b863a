"""Policies ``fixed:MHZ`` and ``fixed:PREFILL/DECODE``: fixed clocks under the default's routers.

The routers see the models that those of the default policy see: without them neither could prefer
one instance to another, and a comparison with the default policy would be one of routing too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.policies import routing
from voltana.policies.published import fixed
from voltana.policy import FIXED_PREFIX, Policy
from voltana.users_file import read_number
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.policy import InstanceContext, InstancePolicy

_FORM = "fixed:MHZ, or fixed:MHZ/MHZ for the prefill and the decode clock"


def fixed_name(prefill_mhz: float, decode_mhz: float) -> str:
    """The name under which `fixed_policy` makes these clocks."""
    return f"{FIXED_PREFIX}{prefill_mhz:.10g}/{decode_mhz:.10g}"


def fixed_policy(name: str) -> Policy:
    """The policy of a name such as ``fixed:1200`` or ``fixed:1200/900``.

    Raises:
        ConfigError: If that names no clocks. When the instances are built: if a device does not
            support one of them, naming the nearest that it does.
    """
    prefill_mhz, decode_mhz = _clocks_mhz(name)

    def control(context: InstanceContext) -> InstancePolicy:
        # Reading the name must not import river, which the default policy's models learn with.
        from voltana.policies.default import models  # noqa: PLC0415

        clock_mhz = decode_mhz if context.role is Role.DECODE else prefill_mhz
        _require(name, clock_mhz, context.levels_mhz or context.table_mhz)
        predictor, power = models(context)
        return dataclasses.replace(fixed(clock_mhz), predictor=predictor, power=power)

    return Policy(
        name=name,
        summary=f"prefill at {prefill_mhz:g} MHz, decode at {decode_mhz:g} MHz; fuller batches",
        control=control,
        prefill_router=routing.filled_up,
        decode_router=routing.within_boundaries,
    )


def require_clocks(name: str, clocks_mhz: Sequence[float]) -> None:
    """Check that both clocks of a policy are among those that may be chosen.

    Args:
        name: Such as ``fixed:1200/900``.
        clocks_mhz: What may be chosen, ascending.

    Raises:
        ConfigError: If one is not, naming the nearest that are.
    """
    for clock_mhz in _clocks_mhz(name):
        _require(name, clock_mhz, clocks_mhz)


def _require(name: str, clock_mhz: float, clocks_mhz: Sequence[float]) -> None:
    if clock_mhz in clocks_mhz:
        return
    below = [f"{mhz:g}" for mhz in clocks_mhz if mhz < clock_mhz][-1:]
    above = [f"{mhz:g}" for mhz in clocks_mhz if mhz > clock_mhz][:1]
    raise invalid(
        f"policy {name!r}: clock_mhz",
        clock_mhz,
        f"a clock of {clocks_mhz[0]:g}-{clocks_mhz[-1]:g} MHz that may be chosen",
        f"Take {' or '.join(below + above)} MHz.",
    )


def _clocks_mhz(name: str) -> tuple[float, float]:
    parts = name.removeprefix(FIXED_PREFIX).split("/")
    try:
        clocks = [read_number(part) for part in parts]
    except ValueError:
        clocks = []
    if len(clocks) not in (1, 2) or not all(0 < mhz < float("inf") for mhz in clocks):
        raise invalid("policy", name, _FORM, "Such as fixed:1200/900.")
    return clocks[0], clocks[-1]
