"""Policies by name, and users' own by reference."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from voltana.errors import ConfigError, unknown_name
from voltana.policies import fixed, published, routing
from voltana.policies.users_own import load_policy
from voltana.policy import FIXED_PREFIX, Policy, is_users_own
from voltana.routers.random import RandomRouter
from voltana.routers.tile_aware import TileAware
from voltana.routers.what_if_v01 import WhatIfV01
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.policy import InstanceContext, InstancePolicy
    from voltana.ports import Router

ROUTED = "-routed"
"""Suffix of a baseline that runs with our routers instead of the published ones."""


def get_policy(name_or_reference: str) -> Policy:
    """The policy of a name, fixed clocks, or a user's own (`load_policy`).

    Raises:
        UnknownNameError: If there is no policy of that name.
        ConfigError: If a ``MODULE:FACTORY`` leads nowhere, or to something else; if ``fixed:``
            names no clocks; or if the policy is known in hindsight only.
    """
    if name_or_reference in POLICIES:
        return POLICIES[name_or_reference]
    if name_or_reference.startswith(FIXED_PREFIX):
        return fixed.fixed_policy(name_or_reference)
    if name_or_reference in IN_HINDSIGHT:
        raise ConfigError(
            f"policy = {name_or_reference!r} is not allowed here: it is searched for one recorded "
            "trace, which nobody knows while it is served. Find the clocks with 'voltana simulate "
            f"--policy {name_or_reference}', and name them as {FIXED_PREFIX}MHZ/MHZ."
        )
    if not is_users_own(name_or_reference):
        known = [*POLICIES, *IN_HINDSIGHT, f"{FIXED_PREFIX}MHZ/MHZ", "MODULE:FACTORY"]
        raise unknown_name("policy", name_or_reference, known)
    return load_policy(
        name_or_reference,
        static_max=published.static_max,
        prefill_router=RandomRouter,
        decode_router=routing.in_turn,
    )


def policy_names() -> tuple[str, ...]:
    """The names that `get_policy` knows."""
    return tuple(POLICIES)


def with_routing(
    policy: Policy,
    *,
    prefill: Callable[[int], Router],
    decode: Callable[[int], Router],
    name: str,
    summary: str,
) -> Policy:
    """The same control with other routers.

    Args:
        policy: Keeps its control.
        prefill: Builds the router of the prefill leg, from a seed.
        decode: Builds the router of the decode leg, likewise.
        name: Name of the result.
        summary: One line on it.
    """
    return dataclasses.replace(
        policy, name=name, summary=summary, prefill_router=prefill, decode_router=decode
    )


def _published(
    name: str,
    summary: str,
    control: Callable[[InstanceContext], InstancePolicy],
    decode_router: Callable[[int], Router] = routing.in_turn,
    *,
    profiled: bool = False,
) -> Policy:
    return Policy(
        name=name,
        summary=summary,
        control=control,
        prefill_router=RandomRouter,
        decode_router=decode_router,
        profiled=profiled,
    )


def _routed(policy: Policy) -> Policy:
    return with_routing(
        policy,
        prefill=routing.filled_up,
        decode=routing.around_boundaries,
        name=policy.name + ROUTED,
        summary=f"{policy.name}, with the routers of voltana",
    )


def _window() -> Callable[[InstanceContext], InstancePolicy]:
    profiled = published.Profiled()
    return lambda context: published.window(context, profiled)


def _v01(slo_margin: float = 0.0) -> Callable[[InstanceContext], InstancePolicy]:
    profiled = published.Profiled()
    return lambda context: published.voltana_v01(context, profiled, slo_margin)


def _voltana(context: InstanceContext) -> InstancePolicy:
    # Listing the policies must not import river, which this one learns with.
    from voltana.policies.default import voltana  # noqa: PLC0415

    return voltana(context)


def _mdp() -> Policy:
    looking_ahead = routing.LookingAhead()

    def control(context: InstanceContext) -> InstancePolicy:
        made = _voltana(context)
        if context.role is Role.DECODE and made.power is not None:
            looking_ahead.note(context, made.power)
        return made

    return Policy(
        name="voltana-mdp",
        summary="voltana, with decode routed by value iteration over the pool",
        control=control,
        prefill_router=routing.filled_up,
        decode_router=looking_ahead.router,
    )


_BASELINES = (
    _published("static-max", "all instances at their fastest clock", published.static_max),
    _published(
        "static-low", "all at the lower published level, 1005 MHz on A100", published.static_low
    ),
    _published(
        "window", "one clock for each 5 s, from the load of the last 5 s", _window(), profiled=True
    ),
    _published("pid", "PID with anti-windup on the measured latency", published.pid),
)

_POLICIES = (
    *_BASELINES,
    _published(
        "voltana-v0.1",
        "the published system as released: two levels, profiled tables, tile-aware routing",
        _v01(),
        lambda _seed: TileAware(),
        profiled=True,
    ),
    _published(
        "voltana-v0.1-margin",
        "voltana-v0.1 with its demo's margin, which loosens the SLO by 35 %",
        _v01(published.DEMO_SLO_MARGIN),
        lambda _seed: TileAware(),
        profiled=True,
    ),
    _published(
        "voltana-v0.1-whatif",
        "voltana-v0.1 with its router that looks at predicted clocks",
        _v01(),
        lambda _seed: WhatIfV01(),
        profiled=True,
    ),
    Policy(
        name="voltana",
        summary="deadlines for prefill, least power for decode, learned online; fuller batches",
        control=_voltana,
        prefill_router=routing.filled_up,
        decode_router=routing.within_boundaries,
    ),
    _mdp(),
    Policy(
        name="voltana-affinity",
        summary="voltana, with prompts sent where their beginning was computed before",
        control=_voltana,
        prefill_router=routing.by_prefix,
        decode_router=routing.together_by_prefix,
    ),
    *(_routed(policy) for policy in _BASELINES),
)

IN_HINDSIGHT: Mapping[str, str] = MappingProxyType(
    {"best-fixed": "the fixed clocks of least energy that keep what the fastest keep, searched"}
)
"""Names with one line each of what `voltana.evaluation` searches for a trace."""

POLICIES: Mapping[str, Policy] = MappingProxyType({policy.name: policy for policy in _POLICIES})
"""Every named policy."""
