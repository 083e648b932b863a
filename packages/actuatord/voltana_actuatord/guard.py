"""What every actuator refuses: commands after close, unsupported clocks, steps that are old."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana_actuatord.errors import ActuatorError, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana_actuatord.errors import ConfigError
    from voltana_actuatord.values import Command


class CommandGuard:
    """Lets a command pass once, in order, while the actuator is open.

    Args:
        table_mhz: Clocks that may be set.

    Attributes:
        table_mhz: Them, ascending.
        sequence: Number of the last command that passed; -1 before the first.
        target_mhz: Its clock; nan before the first.
        closed: Whether the actuator is closed.
    """

    __slots__ = ("_supported", "closed", "sequence", "table_mhz", "target_mhz")

    def __init__(self, table_mhz: Iterable[float]) -> None:
        self.table_mhz = tuple(sorted(map(float, table_mhz)))
        self._supported = frozenset(self.table_mhz)
        self.sequence = -1
        self.target_mhz = math.nan
        self.closed = False

    def admits(self, command: Command) -> bool:
        """Whether a command is to be carried out; one that does not advance is not. Mutates.

        Raises:
            ActuatorError: After the actuator was closed.
            ConfigError: If the clock is not in the table, or the lease is not positive.
        """
        if self.closed:
            raise ActuatorError("the actuator is closed: apply() came after close(). Open another.")
        if command.clock_mhz not in self._supported:
            raise unsupported("clock_mhz", command.clock_mhz, self.table_mhz)
        if not command.lease_s > 0:
            raise invalid("lease_s", command.lease_s, "above 0 s", "Give how long it shall hold.")
        if command.sequence <= self.sequence:
            return False
        self.sequence = command.sequence
        self.target_mhz = command.clock_mhz
        return True


def unsupported(field: str, clock_mhz: float, table_mhz: tuple[float, ...]) -> ConfigError:
    """The error for a clock that a table lacks, to be raised by the caller."""
    span = f"{table_mhz[0]:g}-{table_mhz[-1]:g} MHz" if table_mhz else "no clock at all"
    return invalid(field, clock_mhz, f"a supported clock of {span}", "Take a clock from table().")
