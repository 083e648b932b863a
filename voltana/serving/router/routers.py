"""The core's routers by name, and users' own by reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.errors import ConfigError, unknown_name
from voltana.policy import is_users_own
from voltana.ports import Router
from voltana.routers.ecoroute import EcoRoute
from voltana.routers.fill_up import FillUp
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.routers.tile_aware import TileAware

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.serving.router.settings import RouterTable

ROUTERS: Mapping[str, Callable[[int], Router]] = {
    "ecoroute": lambda _seed: EcoRoute(fallback=LeastLoaded()),
    "fill-up": lambda _seed: FillUp(),
    "least-loaded": lambda _seed: LeastLoaded(),
    "random": RandomRouter,
    "round-robin": lambda _seed: RoundRobin(),
    "tile-aware": lambda _seed: TileAware(),
}
"""Routers that need no policy around them, each built from a seed."""


def make_routers(settings: RouterTable) -> tuple[Router, Router]:
    """The routers of the prefill and of the decode leg.

    Raises:
        UnknownNameError: If a name is not known.
        ConfigError: If a ``MODULE:FACTORY`` leads nowhere, or to something else.
    """
    return (
        _router("prefill_router", settings.prefill_router, settings),
        _router("decode_router", settings.decode_router, settings),
    )


def own_modules(settings: RouterTable) -> frozenset[str]:
    """The modules that a user's configuration names."""
    named = (settings.policy, settings.prefill_router, settings.decode_router)
    modules = {n.partition(":")[0] for n in named if n is not None and is_users_own(n)}
    return frozenset(modules | set(settings.snapshot_modules))


def _router(field: str, name: str | None, settings: RouterTable) -> Router:
    if name is not None and name in ROUTERS:
        return ROUTERS[name](settings.seed)
    if name is not None and ":" not in name:
        raise unknown_name(field, name, [*ROUTERS, "MODULE:FACTORY"])
    # Policies bring the plant and the controllers with them: not for a plain round robin.
    from voltana.policies import get_policy  # noqa: PLC0415

    policy = get_policy(settings.policy if name is None else name)
    make = policy.prefill_router if field == "prefill_router" else policy.decode_router
    made = make(settings.seed)
    if not isinstance(made, Router):
        raise ConfigError(
            f"{field} = {name or settings.policy!r} makes a {type(made).__name__}: must have "
            "route(). See voltana.ports.Router."
        )
    return made
