"""A wrapper that keeps every command from its device: to watch a policy before trusting it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog

from voltana.errors import ActuatorError, invalid
from voltana.values import ActuatorStatus, Command

if TYPE_CHECKING:
    from voltana.ports import Actuator


class DryRun:
    """Reads a device and never changes it.

    Commands are checked as the device would check them and logged at debug level. The status has
    the clock that the device really runs at, with the target that it would have been given.

    Args:
        inner: The device's actuator; closed with the wrapper.
    """

    def __init__(self, inner: Actuator) -> None:
        self._inner = inner
        self._last: Command | None = None
        self._closed = False
        self._log = structlog.get_logger("voltana.dry_run")

    def __repr__(self) -> str:
        return f"DryRun({self._inner!r})"

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that the device supports, ascending."""
        return self._inner.table()

    def apply(self, command: Command) -> None:
        """Check a command and log it; the device is not touched.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the device does not support the clock.
        """
        if self._closed:
            raise ActuatorError("the actuator is closed: apply() came after close(). Open another.")
        table = self._inner.table()
        if command.clock_mhz not in table:
            raise invalid(
                "clock_mhz",
                command.clock_mhz,
                f"a supported clock of {table[0]:g}-{table[-1]:g} MHz",
                "Take a clock from table().",
            )
        if self._last is not None and command.sequence <= self._last.sequence:
            return
        self._last = command
        self._log.debug(
            "would apply",
            domain=command.domain.name,
            clock_mhz=command.clock_mhz,
            sequence=command.sequence,
        )

    def status(self) -> ActuatorStatus:
        """The device's clock and health, and the command that it would have been given."""
        real = self._inner.status()
        return ActuatorStatus(
            clock_mhz=real.clock_mhz,
            target_mhz=math.nan if self._last is None else self._last.clock_mhz,
            sequence=-1 if self._last is None else self._last.sequence,
            health=real.health,
            error=real.error,
        )

    def close(self) -> None:
        """Close the device's actuator; may be called twice."""
        self._closed = True
        self._inner.close()
