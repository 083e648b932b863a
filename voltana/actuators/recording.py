"""An actuator without a device: it keeps what it was told, for tests and for replay.

It is no laxer than a real one: it refuses clocks that its table lacks and commands after close,
changes clock only after a settling time, and falls back to its default clock when a lease runs out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.values import ActuatorStatus, Health
from voltana_actuatord.guard import CommandGuard, unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import TimeSource
    from voltana.values import Command


class RecordingActuator:
    """Accepts commands and keeps them.

    Args:
        table_mhz: Clocks that the device would support, ascending, at least one.
        time: The only source of time.
        default_mhz: Clock before the first command, after close and after a lease has run out; None
            for the fastest of the table, as GPUs have it.
        settle_s: Time from a command until its clock is in force.

    Raises:
        ConfigError: If the table is empty or not ascending, or another value is out of range.
    """

    def __init__(
        self,
        table_mhz: Sequence[float],
        *,
        time: TimeSource,
        default_mhz: float | None = None,
        settle_s: float = 0.0,
    ) -> None:
        table = tuple(map(float, table_mhz))
        ascending = list(table) == sorted(set(table))
        if not table or not ascending or not _positive(table):
            raise invalid("table_mhz", table, "one clock or more in MHz, ascending", "Sort it.")
        self._default_mhz = table[-1] if default_mhz is None else default_mhz
        if self._default_mhz not in table:
            raise unsupported("default_mhz", self._default_mhz, table)
        self._guard = CommandGuard(table)
        if not 0 <= settle_s < math.inf:
            raise invalid("settle_s", settle_s, "at least 0 s and finite", "0 changes at once.")
        self._time = time
        self._settle_s = settle_s
        self._commands: list[Command] = []
        self._applied_s = math.nan
        self._before_mhz = self._default_mhz

    @property
    def commands(self) -> tuple[Command, ...]:
        """Every command that took effect, in order; stale and refused ones are not among them."""
        return tuple(self._commands)

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz, ascending."""
        return self._guard.table_mhz

    def apply(self, command: Command) -> None:
        """Keep a command; one with a sequence number that is not above the last changes nothing.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the table lacks the clock, or the lease is not positive.
        """
        if not self._guard.admits(command):
            return
        self._before_mhz = self._clock_mhz()
        self._applied_s = self._time.now_s()
        self._commands.append(command)

    def status(self) -> ActuatorStatus:
        """The clock in force, and the last command; degraded once its lease has run out."""
        if not self._commands:
            return ActuatorStatus(clock_mhz=self._clock_mhz(), target_mhz=math.nan)
        last = self._commands[-1]
        lapsed = not self._guard.closed and self._lapsed()
        return ActuatorStatus(
            clock_mhz=self._clock_mhz(),
            target_mhz=last.clock_mhz,
            sequence=last.sequence,
            health=Health.DEGRADED if lapsed else Health.OK,
            error=f"the lease of {last.lease_s:g} s ran out; the default is back" if lapsed else "",
        )

    def close(self) -> None:
        """Give the default clock back; may be called twice."""
        self._guard.closed = True

    def _clock_mhz(self) -> float:
        if self._guard.closed or not self._commands or self._lapsed():
            return self._default_mhz
        settled = self._time.now_s() - self._applied_s >= self._settle_s
        return self._commands[-1].clock_mhz if settled else self._before_mhz

    def _lapsed(self) -> bool:
        return self._time.now_s() - self._applied_s > self._commands[-1].lease_s


def _positive(clocks_mhz: Sequence[float]) -> bool:
    return all(0 < mhz < math.inf for mhz in clocks_mhz)
