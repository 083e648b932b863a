"""The NVIDIA driver through NVML; the only file that imports pynvml.

So far it only reads which clocks a device supports, which needs no privilege.
"""

from __future__ import annotations

import contextlib

import pynvml

from voltana.errors import ActuatorError


def nvml_clock_table(device: int = 0) -> tuple[float, ...]:
    """Supported SM clocks of a GPU in MHz at its fastest memory clock, ascending.

    Args:
        device: Index of the GPU.

    Raises:
        ActuatorError: If there is no driver, no such GPU, or no list of clocks.
    """
    try:
        pynvml.nvmlInit()
        try:
            return _read_table(device)
        finally:
            with contextlib.suppress(pynvml.NVMLError):  # the table, or its error, tells more
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise ActuatorError(
            f"reading the clocks of GPU {device} failed: NVML says {str(error)!r}. Run nvidia-smi "
            "to see which GPUs and drivers there are, or name the clocks in MHz."
        ) from error


def _read_table(device: int) -> tuple[float, ...]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(device)
    memory_mhz = pynvml.nvmlDeviceGetSupportedMemoryClocks(handle)
    if not memory_mhz:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    clocks_mhz = pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, max(memory_mhz))
    if not clocks_mhz:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return tuple(sorted({float(mhz) for mhz in clocks_mhz}))
