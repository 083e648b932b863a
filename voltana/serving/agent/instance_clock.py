"""The clock of one instance: of several loops the most demanding wins, and the device may rest.

An instance may have several scheduler processes (data-parallel ranks, pipeline stages) on GPUs that
change clock as one. Each has its own loop, and each loop a `Wish` as its actuator. What a loop gets
is never slower than what it asked for, so that its promise stands. Behind them is one device, which
a dry run leaves alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import ActuatorError, ConfigError
from voltana.values import ActuatorStatus, Command, Health

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import Actuator, TimeSource
    from voltana.values import Domain


class InstanceClock:
    """Hands the fastest of the clocks that are asked for to the device of an instance.

    Args:
        open_device: Opens what sets the clock; for a dry run, what only notes it.
        domain: The devices.
        time: The only source of time.
        dry_run: Whether to begin with the device left alone.
        lacking: What keeps the device from being known; nothing is opened then.

    Raises:
        ActuatorError: If the device cannot be opened.
    """

    def __init__(
        self,
        open_device: Callable[[bool], Actuator],
        domain: Domain,
        time: TimeSource,
        *,
        dry_run: bool,
        lacking: str = "",
    ) -> None:
        self._open_device = open_device
        self._domain = domain
        self._time = time
        self._lacking = lacking
        self._wishes: dict[str, tuple[float, float]] = {}
        self._sequence = -1
        self._device = None if lacking else open_device(dry_run)
        self.dry_run = dry_run

    def set_dry_run(self, *, dry_run: bool) -> None:
        """Leave the device alone, which gives its default clocks back, or take it again.

        Raises:
            ActuatorError: If the device cannot be opened; it is then left alone.
        """
        if dry_run == self.dry_run or self._device is None:
            self.dry_run = dry_run
            return
        if dry_run:
            self._device.close()
        device = self._open_device(dry_run)
        self._device, self.dry_run = device, dry_run

    def member(self, name: str) -> Wish:
        """The actuator of one loop."""
        return Wish(self, name)

    def table(self) -> tuple[float, ...]:
        """See `voltana.ports.Actuator.table`; empty while the device is not known."""
        return () if self._device is None else self._device.table()

    def known_table(self) -> tuple[float, ...]:
        """The table of a device that is known.

        Raises:
            ConfigError: If it is not; the text says what is lacking.
        """
        if self._device is None:
            raise ConfigError(self._lacking)
        return self._device.table()

    def status(self) -> ActuatorStatus:
        """See `voltana.ports.Actuator.status`."""
        if self._device is None:
            nan = math.nan
            return ActuatorStatus(
                clock_mhz=nan, target_mhz=nan, health=Health.LOST, error=self._lacking
            )
        return self._device.status()

    def ask(self, name: str, clock_mhz: float, lease_s: float) -> None:
        """Note what a loop wants, for as long as its lease, and hand on what all of them want.

        Raises:
            ActuatorError: After `close`, or from the device.
            ConfigError: If the device does not support the clock.
        """
        if self._device is None:
            raise ActuatorError(self._lacking)
        now_s = self._time.now_s()
        self._wishes[name] = clock_mhz, now_s + lease_s
        wanted_mhz = max(mhz for mhz, until_s in self._wishes.values() if until_s > now_s)
        self._sequence += 1
        self._device.apply(
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

    def close(self) -> None:
        """Give the default clocks back; may be called twice."""
        if self._device is not None:
            self._device.close()


class Wish:
    """One loop's share of a clock; satisfies `voltana.ports.Actuator`.

    Args:
        clock: The clock that it shares.
        name: Of the loop.
    """

    def __init__(self, clock: InstanceClock, name: str) -> None:
        self._clock = clock
        self._name = name

    def table(self) -> tuple[float, ...]:
        """See `voltana.ports.Actuator.table`."""
        return self._clock.table()

    def apply(self, command: Command) -> None:
        """See `voltana.ports.Actuator.apply`; the sequence is that of all loops."""
        self._clock.ask(self._name, command.clock_mhz, command.lease_s)

    def status(self) -> ActuatorStatus:
        """See `voltana.ports.Actuator.status`."""
        return self._clock.status()

    def close(self) -> None:
        """Want nothing any more; the clock stays the others'."""
        self._clock.leave(self._name)
