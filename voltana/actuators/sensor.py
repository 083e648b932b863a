"""`GpuSensor`: clock, power and energy counter of a domain, read from its driver."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.values import Reading
from voltana_actuatord.drivers.opening import open_driver
from voltana_actuatord.faults import NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.ports import TimeSource
    from voltana.values import Domain
    from voltana_actuatord.drivers.port import GpuDriver


ENERGY_PERIOD_S = 0.2
"""Least time between two readings of the energy counter: one takes 3 ms of a core on an H100, where
clock and power take 2 us (docs/gpu.md). The counter ticks every 20 to 100 ms by itself."""


class GpuSensor:
    """Reads the GPUs of a domain; needs no privilege.

    Args:
        domain: The GPUs; clocks are the slowest of them, power and energy their sum.
        time: Source of time.
        energy_period_s: The energy counter is read no more often, its last value standing.
        open_driver: Opens the driver.

    Raises:
        DriverError: If there is no driver or no such GPU.
    """

    def __init__(
        self,
        domain: Domain,
        time: TimeSource,
        *,
        energy_period_s: float = ENERGY_PERIOD_S,
        open_driver: Callable[[], GpuDriver] = open_driver,
    ) -> None:
        self._driver = open_driver()
        try:
            self._gpus = tuple(self._driver.gpu(name) for name in domain.devices)
        except BaseException:
            self._driver.close()
            raise
        self._time = time
        self._energy_period_s = energy_period_s
        self._energy_j, self._counted_s = math.nan, -math.inf

    def read(self) -> Reading:
        """Take one reading; power and energy are nan on boards that do not have them.

        Raises:
            DriverError: If the driver does not answer.
        """
        now_s = self._time.now_s()
        clock_mhz = min(gpu.clock_mhz() for gpu in self._gpus)
        power_w = _sum_or_nan(gpu.power_w for gpu in self._gpus)
        if now_s - self._counted_s >= self._energy_period_s:
            self._energy_j = _sum_or_nan(gpu.energy_j for gpu in self._gpus)
            self._counted_s = now_s
        return Reading(at_s=now_s, clock_mhz=clock_mhz, power_w=power_w, energy_j=self._energy_j)

    def close(self) -> None:
        """Let the driver go."""
        self._driver.close()


def _sum_or_nan(reads: Iterable[Callable[[], float]]) -> float:
    try:
        return sum(read() for read in reads)
    except NotSupportedError:
        return math.nan
