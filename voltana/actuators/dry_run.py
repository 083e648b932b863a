"""A wrapper that keeps every command from its device: to watch a policy before trusting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from voltana.values import ActuatorStatus, Health
from voltana_actuatord.guard import CommandGuard

if TYPE_CHECKING:
    from voltana.ports import Actuator
    from voltana.values import Command


class DryRun:
    """Reads a device and never changes it.

    Commands are checked as the device would check them and logged at debug level. The status has
    the clock that the device really runs at, with the target that it would have been given.

    Args:
        inner: The device's actuator; closed with the wrapper.
    """

    def __init__(self, inner: Actuator) -> None:
        self._inner = inner
        self._guard = CommandGuard(inner.table())
        self._log = structlog.get_logger("voltana.dry_run")

    def __repr__(self) -> str:
        return f"DryRun({self._inner!r})"

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that the device supports, ascending."""
        return self._guard.table_mhz

    def apply(self, command: Command) -> None:
        """Check a command and log it; the device is not touched.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the device does not support the clock, or the lease is not positive.
        """
        if not self._guard.admits(command):
            return
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
            target_mhz=self._guard.target_mhz,
            sequence=self._guard.sequence,
            health=Health.LOST if self._guard.closed else real.health,
            error="closed" if self._guard.closed else real.error,
        )

    def close(self) -> None:
        """Close the device's actuator; may be called twice."""
        self._guard.closed = True
        self._inner.close()
