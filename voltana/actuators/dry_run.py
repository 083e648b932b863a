"""`DryRunActuator`: says what it would do and touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.errors import ActuatorError, invalid
from voltana.values import ActuatorStatus, Command, Health

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class DryRunActuator:
    """Accepts commands, tells somebody about them, and leaves the GPU at its default clocks.

    Args:
        table_mhz: Clocks that may be asked for.
        tell: Called with every command that would change the clock; None tells nobody.
        read_clock: Reads the clock that really runs, in MHz; None reports the fastest clock of
            the table, where an untouched GPU runs.
    """

    def __init__(
        self,
        table_mhz: Sequence[float],
        *,
        tell: Callable[[Command], None] | None = None,
        read_clock: Callable[[], float] | None = None,
    ) -> None:
        if not table_mhz:
            raise invalid("table_mhz", (), "at least one clock in MHz", "Take it from the device.")
        self._table_mhz = tuple(sorted(map(float, table_mhz)))
        self._tell = tell
        self._read_clock = read_clock or (lambda: self._table_mhz[-1])
        self._sequence = -1
        self._target_mhz = float("nan")
        self._closed = False

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that may be asked for, ascending."""
        return self._table_mhz

    def apply(self, command: Command) -> None:
        """Tell what would be done.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the clock is not in `table`.
        """
        if self._closed:
            raise ActuatorError("the actuator is closed: apply() came after close(). Open another.")
        if command.clock_mhz not in self._table_mhz:
            raise invalid(
                "clock_mhz",
                command.clock_mhz,
                f"a supported clock of {self._table_mhz[0]:g}-{self._table_mhz[-1]:g} MHz",
                "Take a clock from table().",
            )
        if command.sequence <= self._sequence:
            return
        self._sequence = command.sequence
        if self._tell is not None and command.clock_mhz != self._target_mhz:
            self._tell(command)
        self._target_mhz = command.clock_mhz

    def status(self) -> ActuatorStatus:
        """The clock that runs, which is nobody's doing here."""
        return ActuatorStatus(
            clock_mhz=self._read_clock(),
            target_mhz=self._target_mhz,
            sequence=self._sequence,
            health=Health.LOST if self._closed else Health.OK,
            error="closed" if self._closed else "",
        )

    def close(self) -> None:
        """End; there is nothing to give back."""
        self._closed = True
