"""A fixed clock: the baseline that every governor is measured against, and the usual fallback."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.values import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Observation


class FixedClock:
    """Always asks for the same clock; satisfies `voltana.ports.Controller`.

    Args:
        clock_mhz: The clock.

    Raises:
        ConfigError: If it is not above 0 and finite.
    """

    def __init__(self, clock_mhz: float) -> None:
        if not 0 < clock_mhz < math.inf:
            raise invalid("clock_mhz", clock_mhz, "above 0 and finite", "Take a supported clock.")
        self.levels_mhz = (clock_mhz,)
        self._decision = Decision(clock_mhz=clock_mhz, reason="fixed clock")

    @classmethod
    def max(cls, table_mhz: Sequence[float]) -> FixedClock:
        """The fastest clock of a device's table."""
        return cls(max(table_mhz))

    @classmethod
    def min(cls, table_mhz: Sequence[float]) -> FixedClock:
        """The slowest clock of a device's table."""
        return cls(min(table_mhz))

    def decide(self, observation: Observation) -> Decision:  # noqa: ARG002  (the port's signature)
        """See `voltana.ports.Controller.decide`."""
        return self._decision

    def __repr__(self) -> str:
        return f"FixedClock({self.levels_mhz[0]:g})"
