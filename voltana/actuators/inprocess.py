"""`NvmlActuator`: NVML in this process, for where the engine runs as root and no daemon does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.actuators.local import LocalActuator
from voltana.values import Reading
from voltana_actuatord.drivers.nvml import Driver, Gpu
from voltana_actuatord.faults import NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.ports import TimeSource
    from voltana.values import Domain


class NvmlActuator(LocalActuator):
    """Locks the SM clock of a domain's GPUs through NVML.

    A SIGKILL to this process leaves the clocks locked; `voltana.actuators.ActuatorProcess` does
    not have that flaw.

    Args:
        domain: The GPUs that change clock as one.

    Raises:
        MigEnabledError: If a GPU is split by MIG.
        DriverError: If there is no driver or no such GPU. A lack of privilege shows in `status`
            after the first command.
    """

    def __init__(self, domain: Domain) -> None:
        driver = Driver()
        try:
            gpus = [driver.gpu(index) for index in domain.devices]
            for gpu in gpus:
                gpu.refuse_mig()
            super().__init__(gpus, on_close=driver.close)
        except BaseException:
            driver.close()
            raise


class NvmlSensor:
    """Reads clock, power and energy counter of a domain through NVML; needs no privilege.

    Args:
        domain: The GPUs; clocks are the slowest of them, power and energy their sum.
        time: Source of time.

    Raises:
        DriverError: If there is no driver or no such GPU.
    """

    def __init__(self, domain: Domain, time: TimeSource) -> None:
        self._driver = Driver()
        self._gpus: tuple[Gpu, ...] = tuple(self._driver.gpu(index) for index in domain.devices)
        self._time = time

    def read(self) -> Reading:
        """Take one reading; power and energy are nan on boards that do not have them.

        Raises:
            DriverError: If the driver does not answer.
        """
        return Reading(
            at_s=self._time.now_s(),
            clock_mhz=min(gpu.clock_mhz() for gpu in self._gpus),
            power_w=_sum_or_nan(gpu.power_w for gpu in self._gpus),
            energy_j=_sum_or_nan(gpu.energy_j for gpu in self._gpus),
        )

    def close(self) -> None:
        """Let the driver go."""
        self._driver.close()


def _sum_or_nan(reads: Iterable[Callable[[], float]]) -> float:
    try:
        return sum(read() for read in reads)
    except NotSupportedError:
        return math.nan
