"""An actuator that can be told at run time to leave the device alone, and to take it again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import ActuatorError, invalid
from voltana.values import ActuatorStatus, Command, Health

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.ports import Actuator


class Switchable:
    """Drives a device, or only notes what it would do.

    Args:
        open_live: Opens the device's actuator.
        table_mhz: Clocks to offer while it is not open; empty asks the device once.
        dry_run: Whether to begin without it.

    Raises:
        ActuatorError: If the device cannot be opened.
    """

    def __init__(
        self, open_live: Callable[[], Actuator], table_mhz: Sequence[float], *, dry_run: bool
    ) -> None:
        self._open_live = open_live
        self._live: Actuator | None = None
        self._table_mhz = tuple(map(float, table_mhz))
        self._last: Command | None = None
        self._closed = False
        if not dry_run:
            self.set_dry_run(dry_run=False)

    @property
    def dry_run(self) -> bool:
        """Whether the device is left alone."""
        return self._live is None

    def set_dry_run(self, *, dry_run: bool) -> None:
        """Leave the device alone, which gives its default clocks back, or take it again.

        Raises:
            ActuatorError: If the device cannot be opened; it is then left alone.
        """
        if self._closed or dry_run == self.dry_run:
            return
        self._last = None
        if dry_run:
            live, self._live = self._live, None
            if live is not None:
                live.close()
        else:
            self._live = self._open_live()
            self._table_mhz = self._live.table()

    def table(self) -> tuple[float, ...]:
        """See `voltana.ports.Actuator.table`."""
        return self._table_mhz

    def apply(self, command: Command) -> None:
        """See `voltana.ports.Actuator.apply`; a dry run checks the command and notes it.

        Raises:
            ActuatorError: After `close`, or from the device.
            ConfigError: If the device does not support the clock.
        """
        if self._closed:
            raise ActuatorError("the actuator is closed: apply() came after close(). Open another.")
        if self._live is not None:
            self._live.apply(command)
        elif command.clock_mhz not in self._table_mhz:
            raise invalid(
                "clock_mhz",
                command.clock_mhz,
                f"a supported clock of {self._table_mhz[0]:g}-{self._table_mhz[-1]:g} MHz",
                "Take a clock from table().",
            )
        elif self._last is None or command.sequence > self._last.sequence:
            self._last = command

    def status(self) -> ActuatorStatus:
        """See `voltana.ports.Actuator.status`; no clock in a dry run, but the one wanted."""
        if self._live is not None:
            return self._live.status()
        last = self._last
        return ActuatorStatus(
            clock_mhz=math.nan,
            target_mhz=math.nan if last is None else last.clock_mhz,
            sequence=-1 if last is None else last.sequence,
            health=Health.LOST if self._closed else Health.OK,
        )

    def close(self) -> None:
        """Give the default clocks back; may be called twice."""
        self._closed = True
        live, self._live = self._live, None
        if live is not None:
            live.close()
