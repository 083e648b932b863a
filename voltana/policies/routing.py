"""How policies route: the routers of the named policies, each built from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.routers.by_role import ByRole
from voltana.routers.ecoroute import EcoRoute
from voltana.routers.fill_up import FillUp
from voltana.routers.least_memory import LeastMemory
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.routers.mdp import MDPRouter, at_once, in_background
from voltana.routers.prefix_affinity import PrefixAffinity
from voltana.routers.round_robin import RoundRobin
from voltana.routers.shared_gaps import SharedGaps
from voltana.routers.viable_batch import ViableBatch
from voltana.routers.with_places import WithPlaces

if TYPE_CHECKING:
    from voltana.policy import InstanceContext
    from voltana.ports import PowerPredictor, Router


def in_turn(_seed: int) -> Router:
    """The published routing of decode."""
    return RoundRobin()


def filled_up(_seed: int) -> Router:
    """Prefill, so that prompts share batches as far as deadlines allow."""
    return FillUp()


def by_prefix(seed: int) -> Router:
    """The same, and prompts go where their beginning was computed before, if load allows."""
    return PrefixAffinity(filled_up(seed))


def together_by_prefix(seed: int) -> Router:
    """Decode and colocated as `within_boundaries`, unless the beginning is kept elsewhere."""
    colocated = WithPlaces(PrefixAffinity(SharedGaps()))
    return ByRole(ViableBatch(least_power(seed)), colocated=colocated)


def around_boundaries(_seed: int) -> Router:
    """Decode, so that no clock jumps and no new tile begins; of the rest, the emptiest KV cache."""
    # Levels lie 15-30 MHz apart: only a rise of several of them is worth an uneven load. Idle
    # instances sleep on until the others come near the clocks at which the voltage rises.
    return EcoRoute(fallback=LeastMemory(), boundary_mhz=100.0, wake_share=0.8)


def least_power(seed: int) -> Router:
    """The same among as many instances as take the least power together."""
    return MarginalEnergy(around_boundaries(seed))


def within_boundaries(seed: int) -> Router:
    """The same, and a request waits while every batch is at the boundary of what can be served.

    Colocated instances that have a place left take requests so that prompts share gaps.
    """
    return ByRole(ViableBatch(least_power(seed)))


class LookingAhead:
    """Builds `MDPRouter`s, each over the decode instances that were noted since the last one."""

    def __init__(self) -> None:
        self._noted: list[tuple[InstanceContext, PowerPredictor]] = []

    def note(self, context: InstanceContext, power: PowerPredictor) -> None:
        """Tell of a decode instance and the power model that it learns."""
        self._noted.append((context, power))

    def router(self, _seed: int) -> Router:
        """A router over what was noted; over what candidates say where nothing was.

        Nothing is noted where the instances are built in other processes.
        """
        if not self._noted:
            return MDPRouter()
        # The instances are alike. The first is never the one that idles all the time and learns
        # nothing: ties go to it.
        context, power = self._noted[0]
        self._noted.clear()
        return MDPRouter(
            power,
            kv_capacity_tokens=context.kv_capacity_tokens,
            kv_reserved_tokens=context.kv_reserved_tokens,
            # A simulator, which offers a bench, has to repeat; a live request must not wait.
            run=in_background if context.bench is None else at_once,
        )
