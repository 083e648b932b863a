"""One clock for several control loops: the most demanding of them wins.

An instance may have several scheduler processes (data-parallel ranks, pipeline stages) on GPUs that
change clock as one. Each has its own loop, and each loop this as its actuator. What a loop gets is
never slower than what it asked for, so that its promise stands.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.values import ActuatorStatus, Command

if TYPE_CHECKING:
    from voltana.ports import Actuator, TimeSource
    from voltana.values import Domain


class SharedClock:
    """Hands on the fastest of the clocks that are asked for.

    Args:
        actuator: Sets the clock; not closed here.
        domain: The devices.
        time: The only source of time.
    """

    def __init__(self, actuator: Actuator, domain: Domain, time: TimeSource) -> None:
        self._actuator = actuator
        self._domain = domain
        self._time = time
        self._wishes: dict[str, tuple[float, float]] = {}
        self._sequence = -1

    def member(self, name: str) -> Member:
        """The actuator of one loop."""
        return Member(self, name)

    def table(self) -> tuple[float, ...]:
        """See `voltana.ports.Actuator.table`."""
        return self._actuator.table()

    def status(self) -> ActuatorStatus:
        """See `voltana.ports.Actuator.status`."""
        return self._actuator.status()

    def ask(self, name: str, clock_mhz: float, lease_s: float) -> None:
        """Note what a loop wants, for as long as its lease, and hand on what all of them want."""
        now_s = self._time.now_s()
        self._wishes[name] = clock_mhz, now_s + lease_s
        wanted_mhz = max(mhz for mhz, until_s in self._wishes.values() if until_s > now_s)
        self._sequence += 1
        self._actuator.apply(
            Command(
                domain=self._domain,
                clock_mhz=wanted_mhz,
                sequence=self._sequence,
                lease_s=lease_s,
            )
        )

    def leave(self, name: str) -> None:
        """Forget what a loop wanted."""
        self._wishes.pop(name, None)


class Member:
    """One loop's share of a clock; satisfies `voltana.ports.Actuator`."""

    def __init__(self, shared: SharedClock, name: str) -> None:
        self._shared = shared
        self._name = name
        self._target_mhz = math.nan

    def table(self) -> tuple[float, ...]:
        """See `voltana.ports.Actuator.table`."""
        return self._shared.table()

    def apply(self, command: Command) -> None:
        """See `voltana.ports.Actuator.apply`; the sequence is that of all members."""
        self._target_mhz = command.clock_mhz
        self._shared.ask(self._name, command.clock_mhz, command.lease_s)

    def status(self) -> ActuatorStatus:
        """See `voltana.ports.Actuator.status`."""
        return self._shared.status()

    def close(self) -> None:
        """Want nothing any more; may be called twice."""
        self._shared.leave(self._name)
