"""The plant behind the ports: what a control loop sees of a simulated instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.values import ActuatorStatus, Health, Reading
from voltana_actuatord.guard import CommandGuard
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from voltana.plant.board import SimulatedBoard
    from voltana.plant.noise import LognormalNoise
    from voltana.ports import TimeSource
    from voltana.values import Command

make_reading = maker(Reading)


class SimulatedActuator:
    """Sets the clock of a simulated board.

    Args:
        board: The board.
        time: Simulated time.
        table_mhz: Clocks that it supports, ascending.
    """

    def __init__(
        self, board: SimulatedBoard, time: TimeSource, table_mhz: tuple[float, ...]
    ) -> None:
        self._board = board
        self._time = time
        self._guard = CommandGuard(table_mhz)

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that the board supports, ascending."""
        return self._guard.table_mhz

    def apply(self, command: Command) -> None:
        """Ask for a clock; it is in force after the call and its settling.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the board does not support the clock.
        """
        if self._guard.admits(command):
            self._board.request(self._time.now_s(), command.clock_mhz)

    def status(self) -> ActuatorStatus:
        """The clock in force, and the one asked for last."""
        self._board.idle_until(self._time.now_s())
        return ActuatorStatus(
            clock_mhz=self._board.clock_mhz,
            target_mhz=self._guard.target_mhz,
            sequence=self._guard.sequence,
            health=Health.LOST if self._guard.closed else Health.OK,
            error="closed" if self._guard.closed else "",
        )

    def close(self) -> None:
        """Give the default clock, the fastest, back."""
        if not self._guard.closed:
            self._guard.closed = True
            self._board.request(self._time.now_s(), self._guard.table_mhz[-1])


class SimulatedSensor:
    """Reads a simulated board: the true clock, noisy power, and the ticking energy counter.

    Args:
        board: The board, integrated up to the current time by whoever runs it.
        noise: Factor on the power.
    """

    __slots__ = ("_board", "_noise")

    def __init__(self, board: SimulatedBoard, noise: LognormalNoise) -> None:
        self._board = board
        self._noise = noise

    def read(self) -> Reading:
        """Take one reading."""
        board = self._board
        return make_reading(
            at_s=board.at_s,
            clock_mhz=board.clock_mhz,
            power_w=board.power_w * self._noise.draw(),
            energy_j=board.counter_j,
        )
