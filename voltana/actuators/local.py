"""An actuator that drives GPUs from this process, one thread a GPU, whatever the mechanism.

Only for where no daemon runs: it needs the privilege itself, and a process that is killed leaves
its clocks locked. Against anything milder it guards: a leash gives the default clocks back when no
completed control step comes in time, and the interpreter's exit does as well.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from typing import TYPE_CHECKING

from voltana.errors import ActuatorError
from voltana.values import ActuatorStatus, Command, Health
from voltana_actuatord.channel import GpuChannel, Result, Wish
from voltana_actuatord.faults import NotSupportedError
from voltana_actuatord.guard import CommandGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana_actuatord.drivers.port import Settable

CLOSE_LIMIT_S = 3.0


class LocalActuator:
    """Sets the clock of GPUs that this process may control.

    Args:
        gpus: The GPUs of one clock domain, at least one.
        on_close: Called once all GPUs are at their defaults.

    Raises:
        NotSupportedError: If the GPUs share no clock.
    """

    def __init__(
        self, gpus: Sequence[Settable], *, on_close: Callable[[], None] | None = None
    ) -> None:
        self._gpus = tuple(gpus)
        self._on_close = on_close
        common = set(self._gpus[0].clocks_mhz()).intersection(
            *(gpu.clocks_mhz() for gpu in self._gpus[1:])
        )
        if not common:
            raise NotSupportedError(
                f"{', '.join(gpu.label for gpu in gpus)} share no clock. Put unlike GPUs in "
                "domains of their own."
            )
        self._guard = CommandGuard(common)
        self._expires_s = math.inf
        self._error = ""
        self._closed = threading.Event()
        self._channels = tuple(GpuChannel(gpu, self._take) for gpu in self._gpus)
        self._leash = threading.Thread(target=self._watch_lease, name="leash", daemon=True)
        self._leash.start()
        atexit.register(self.close)

    def table(self) -> tuple[float, ...]:
        """Clocks in MHz that every GPU of the domain supports, ascending."""
        return self._guard.table_mhz

    def apply(self, command: Command) -> None:
        """Ask for a clock; returns at once, and a later command replaces one that still waits.

        Raises:
            ActuatorError: After `close`.
            ConfigError: If the clock is not in `table`, or the lease is not positive.
        """
        before_mhz = self._guard.target_mhz
        if not self._guard.admits(command):
            return
        lapsed = self._expires_s == -math.inf
        self._expires_s = time.monotonic() + command.lease_s
        if command.clock_mhz == before_mhz and not lapsed:
            return
        self._error = ""
        wish = Wish(command.clock_mhz, command.sequence)
        for channel in self._channels:
            channel.ask(wish)

    def status(self) -> ActuatorStatus:
        """The slowest clock read back now from the domain's GPUs."""
        health = Health.DEGRADED if self._error else Health.OK
        error = self._error
        clock_mhz = math.nan
        try:
            clock_mhz = min(gpu.in_force_mhz() for gpu in self._gpus)
        except ActuatorError as failure:
            health, error = Health.LOST, str(failure)
        if self._closed.is_set():
            health, error = Health.LOST, "closed"
        return ActuatorStatus(
            clock_mhz=clock_mhz,
            target_mhz=self._guard.target_mhz,
            sequence=self._guard.sequence,
            health=health,
            error=error,
        )

    def close(self) -> None:
        """Give the default clocks back, and wait for it; may be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._guard.closed = True
        self._ask_default()
        ends_s = time.monotonic() + CLOSE_LIMIT_S
        while not self._at_default() and time.monotonic() < ends_s:
            time.sleep(0.002)
        for channel in self._channels:
            channel.stop()
        if self._on_close is not None and self._at_default():
            for channel in self._channels:
                channel.join(1.0)
            self._on_close()
        atexit.unregister(self.close)

    def _at_default(self) -> bool:
        return all(channel.at_default for channel in self._channels)

    def _ask_default(self) -> None:
        for channel in self._channels:
            channel.ask(Wish(None))

    def _take(self, result: Result) -> None:
        """Hear a channel; a domain changes as one, so one failure takes all GPUs back."""
        if not result.failed:
            return
        self._error = result.note
        if result.wish.clock_mhz is not None:
            self._expires_s = -math.inf
            self._ask_default()

    def _watch_lease(self) -> None:
        while not self._closed.wait(min(0.2, max(0.01, self._expires_s - time.monotonic()))):
            if -math.inf < self._expires_s <= time.monotonic():
                self._expires_s = -math.inf
                self._error = (
                    "no completed control step within the lease: default clocks are back. The "
                    "next step takes the clock up again."
                )
                self._ask_default()
