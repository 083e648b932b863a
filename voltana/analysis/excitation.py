"""Excites a decode instance, so that it can be identified.

The clock jumps between two levels at random times (a random telegraph signal), which holds all
frequencies up to that of the jumps and needs no level in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.policy import InstancePolicy, Policy
from voltana.routers.round_robin import RoundRobin
from voltana.values import Decision, Role

if TYPE_CHECKING:
    from voltana.policy import InstanceContext
    from voltana.ports import Router
    from voltana.values import Observation


class Telegraph:
    """Satisfies `voltana.ports.Controller`; jumps between two clocks at random times.

    Args:
        low_mhz: The one.
        high_mhz: The other.
        hold_s: Mean time between two jumps.
        seed: Of the times.
        from_s: When it begins; until then it stays at `low_mhz`.

    Raises:
        ConfigError: If `hold_s` is not above 0.
    """

    def __init__(
        self, low_mhz: float, high_mhz: float, *, hold_s: float, seed: int = 0, from_s: float = 0.0
    ) -> None:
        if not hold_s > 0:
            raise invalid("hold_s", hold_s, "above 0 s", "A few seconds are usual.")
        self._clocks_mhz = (low_mhz, high_mhz)
        self._hold_s = hold_s
        self._rng = np.random.default_rng(seed)
        self._jump_s = from_s
        self._high = False

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        while observation.now_s >= self._jump_s:
            self._high = not self._high
            self._jump_s += float(self._rng.exponential(self._hold_s))
        return Decision(clock_mhz=self._clocks_mhz[self._high], reason="excitation")


def excited(low_mhz: float, high_mhz: float, *, hold_s: float = 4.0, from_s: float = 0.0) -> Policy:
    """A policy that excites every decode instance and lets prefill run at its fastest clock.

    Args:
        low_mhz: Lower clock.
        high_mhz: Higher clock.
        hold_s: Mean time between two jumps.
        from_s: When it begins.
    """

    def control(context: InstanceContext) -> InstancePolicy:
        table_mhz = context.table_mhz
        low, high = (
            (low_mhz, high_mhz) if context.role is Role.DECODE else (table_mhz[-1], table_mhz[-1])
        )
        telegraph = Telegraph(low, high, hold_s=hold_s, seed=context.seed, from_s=from_s)
        return InstancePolicy(controller=telegraph, levels_mhz=table_mhz)

    def router(_seed: int) -> Router:
        return RoundRobin()

    return Policy(
        name="excited",
        summary="decode clocks that jump at random times",
        control=control,
        prefill_router=router,
        decode_router=router,
    )
