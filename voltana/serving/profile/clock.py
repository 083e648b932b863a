"""Sets clocks for a calibration through the actuator daemon, and reads back what was achieved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from voltana.actuators import ActuatorProcess
from voltana.errors import ActuatorError
from voltana.values import Command, Domain, Health

if TYPE_CHECKING:
    from pathlib import Path

LEASE_S = 2.0
REACH_LIMIT_S = 5.0
TOLERANCE_MHZ = 20.0
"""A board under its power cap, or between two steps, counts as there."""

_POLL_S = 0.01


class LeasedClock:
    """Clock of the GPUs of one server, on a lease; a context manager that gives it back.

    Args:
        gpus: Their indices.
        socket_path: Where the daemon listens.

    Raises:
        DaemonUnavailableError: If there is no daemon.
        LeaseRefusedError: If somebody else holds a GPU, such as the server's agent.
    """

    def __init__(self, gpus: tuple[int, ...], socket_path: str | Path) -> None:
        self._domain = Domain(name="profile", devices=gpus)
        self._actuator = ActuatorProcess(self._domain, socket_path=socket_path, lease_s=LEASE_S)
        self._sequence = 0
        self._target_mhz = self._actuator.table()[-1]

    def __enter__(self) -> LeasedClock:
        return self

    def __exit__(self, *_: object) -> None:
        self._actuator.close()

    @property
    def levels_mhz(self) -> tuple[float, ...]:
        """Clocks that may be set, ascending."""
        return self._actuator.table()

    def set(self, clock_mhz: float) -> float:
        """Ask for a clock, wait until it is there, and return the one that was read back.

        Raises:
            ActuatorError: If it does not come.
        """
        self._target_mhz = clock_mhz
        self.hold()
        ends_s = time.monotonic() + REACH_LIMIT_S
        while time.monotonic() < ends_s:
            status = self._actuator.status()
            done = status.sequence == self._sequence - 1 and status.health is Health.OK
            if done and abs(status.clock_mhz - clock_mhz) <= TOLERANCE_MHZ:
                return status.clock_mhz
            time.sleep(_POLL_S)
        raise ActuatorError(
            f"GPU {', '.join(map(str, self._domain.devices))} does not reach {clock_mhz:g} MHz: "
            f"{status.clock_mhz:g} MHz after {REACH_LIMIT_S:g} s ({status.error or 'no error'}). "
            "Leave that clock out, or look at 'voltana actuator status'."
        )

    def hold(self) -> None:
        """Renew the lease at the last clock."""
        self._actuator.apply(
            Command(
                domain=self._domain,
                clock_mhz=self._target_mhz,
                sequence=self._sequence,
                lease_s=self._actuator.lease_s,
            )
        )
        self._sequence += 1
