"""What stands before a device: it applies clocks, or reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from voltana.values import ActuatorStatus, Command, Reading


@runtime_checkable
class Actuator(Protocol):
    """Makes a device run at a clock."""

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that the device supports, ascending."""
        ...

    def apply(self, command: Command) -> None:
        """Ask for a clock; never blocks, and the latest command wins."""
        ...

    def status(self) -> ActuatorStatus:
        """What was achieved, read back from the device."""
        ...

    def close(self) -> None:
        """Give the default clocks back; may be called twice."""
        ...


@runtime_checkable
class Sensor(Protocol):
    """Reads clock, power and energy of the devices of an instance."""

    def read(self) -> Reading:
        """Take one reading."""
        ...
