"""The one place that opens a driver: everybody else is handed one, or asks here.

A driver is named ``nvml`` or ``MODULE:FACTORY``. The daemon takes the name from its configuration
alone; unprivileged programs from the variable ``VOLTANA_GPU_DRIVER``, else they take NVML.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING

from voltana_actuatord.errors import invalid
from voltana_actuatord.faults import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.drivers.port import GpuDriver

DRIVER_VARIABLE = "VOLTANA_GPU_DRIVER"
DEFAULT_DRIVER = "nvml"
DRIVERS = {DEFAULT_DRIVER: "voltana_actuatord.drivers.nvml:NvmlDriver"}


def find_driver(name: str) -> Callable[[], GpuDriver]:
    """Import a driver and return what opens it; opens nothing.

    Args:
        name: One of `DRIVERS`, or ``MODULE:FACTORY``.

    Raises:
        ConfigError: If there is no such driver.
        DriverNotLoadedError: If its binding cannot be used.
    """
    module, _, factory = DRIVERS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise invalid(
            "driver",
            name,
            f"{', '.join(map(repr, DRIVERS))} or MODULE:FACTORY",
            f"Name what opens the GPUs' driver ({error}).",
        ) from None
    return found  # type: ignore[no-any-return]


def open_driver() -> GpuDriver:
    """Open the driver of this machine's GPUs; close it after use.

    Raises:
        ConfigError: If ``VOLTANA_GPU_DRIVER`` names none.
        DriverNotLoadedError: If there is no library or no driver.
    """
    return find_driver(os.environ.get(DRIVER_VARIABLE, DEFAULT_DRIVER))()


def gpu_clock_table(
    name: str | int = 0, open_driver: Callable[[], GpuDriver] = open_driver
) -> tuple[float, ...]:
    """Supported SM clocks of a GPU in MHz, ascending; needs no privilege.

    Args:
        name: UUID of the GPU, or its index in this process's own counting.
        open_driver: Opens the driver.

    Raises:
        DriverError: If there is no driver, no such GPU, or no list of clocks.
    """
    try:
        with contextlib.closing(open_driver()) as driver:
            return driver.gpu(name).clocks_mhz()
    except DriverError as error:
        raise type(error)(
            f"the clocks of GPU {name} cannot be read: {error} List the GPUs that are visible here "
            "with `voltana actuator doctor`, or name the clocks in MHz.",
            error.code,
        ) from error
