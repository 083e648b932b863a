"""`InProcessActuator`: the driver in this process, where the engine is root and no daemon runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.actuators.local import LocalActuator
from voltana_actuatord.drivers.opening import open_driver

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import Domain
    from voltana_actuatord.drivers.port import GpuDriver


class InProcessActuator(LocalActuator):
    """Locks the SM clock of a domain's GPUs through their driver.

    A SIGKILL to this process leaves the clocks locked; `voltana.actuators.ActuatorProcess` does
    not have that flaw.

    Args:
        domain: The GPUs that change clock as one.
        open_driver: Opens the driver.

    Raises:
        PartitionedGpuError: If a GPU is split.
        DriverError: If there is no driver or no such GPU. A lack of privilege shows in `status`
            after the first command.
    """

    def __init__(
        self, domain: Domain, *, open_driver: Callable[[], GpuDriver] = open_driver
    ) -> None:
        driver = open_driver()
        try:
            gpus = [driver.gpu(name) for name in domain.devices]
            for gpu in gpus:
                gpu.refuse_partitioned()
            super().__init__(gpus, on_close=driver.close)
        except BaseException:
            driver.close()
            raise
