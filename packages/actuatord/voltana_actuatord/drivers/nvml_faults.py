"""What NVML can answer: every return code as a kind of fault, with NVIDIA's remedy."""

from __future__ import annotations

from voltana_actuatord.faults import (
    DriverArgumentError,
    DriverBusyError,
    DriverError,
    DriverNotLoadedError,
    GpuLostError,
    NoSuchGpuError,
    NotSupportedError,
    PartitionedGpuError,
    PermissionDeniedError,
    SilentFailureError,
    VolatileSettingsError,
)

NOT_SUPPORTED = 3
NOT_FOUND = 6

_CODES: dict[int, tuple[type[DriverError], str]] = {
    1: (DriverError, "NVML is not initialised. Open the device again."),
    2: (DriverArgumentError, "Take a clock from table(), or a limit within the board's range."),
    3: (
        NotSupportedError,
        "This board or driver has no such function. Use the power cap instead of clocks "
        "(or the reverse), or leave this GPU at its defaults.",
    ),
    4: (
        PermissionDeniedError,
        "Changing clocks needs root (in a container: CAP_SYS_ADMIN). Run voltana-actuatord as "
        "root and connect to it instead of running the engine as root.",
    ),
    5: (DriverError, "NVML was initialised twice. Restart the process."),
    6: (NoSuchGpuError, "Check `nvidia-smi -L`: the GPU does not exist or is not visible here."),
    7: (DriverError, "The driver asked for a larger buffer. Update nvidia-ml-py."),
    8: (GpuLostError, "The board lacks external power. Check its power cables."),
    9: (DriverNotLoadedError, "Load the driver (`modprobe nvidia`) and check `nvidia-smi`."),
    10: (DriverBusyError, "The driver did not answer in time. It is tried again."),
    11: (GpuLostError, "The kernel has an interrupt problem with the GPU. See `dmesg`; reboot."),
    12: (
        DriverNotLoadedError,
        "libnvidia-ml.so.1 was not found. Install the NVIDIA driver; in a container use the "
        "NVIDIA runtime with NVIDIA_DRIVER_CAPABILITIES=utility.",
    ),
    13: (NotSupportedError, "The driver is too old for this call. Update the driver."),
    14: (GpuLostError, "The board's infoROM is corrupted. Have the board serviced."),
    15: (
        GpuLostError,
        "The GPU fell off the bus. See `dmesg` for an Xid, then reset or reboot; clocks are at "
        "their defaults after that.",
    ),
    16: (GpuLostError, "The GPU needs a reset: stop its processes, then `nvidia-smi -r`."),
    17: (
        PermissionDeniedError,
        "The operating system blocked the call. Allow the NVIDIA devices in the cgroup or "
        "security profile.",
    ),
    18: (
        DriverNotLoadedError,
        "Library and kernel driver differ in version. Reboot, or reload the kernel modules.",
    ),
    19: (DriverBusyError, "The GPU is in use by an exclusive operation. It is tried again."),
    20: (DriverBusyError, "The driver is out of memory. It is tried again."),
    21: (DriverBusyError, "The driver has no reading yet. It is tried again."),
    22: (NotSupportedError, "Not available on a virtual GPU with ECC. Use the host."),
    23: (DriverBusyError, "The driver is out of resources. It is tried again."),
    24: (DriverArgumentError, "The board does not support this clock. Take one from table()."),
    25: (NotSupportedError, "nvidia-ml-py and the driver differ in version. Update both."),
    26: (NotSupportedError, "The driver dropped this call. Update nvidia-ml-py."),
    27: (DriverBusyError, "The GPU is not ready yet. It is tried again."),
    28: (NoSuchGpuError, "Check `nvidia-smi -L`: the GPU does not exist or is not visible here."),
    29: (DriverBusyError, "The GPU is in a state that does not allow this now. It is tried again."),
    30: (NotSupportedError, "This kind of reset is not supported. Reboot instead."),
    999: (DriverError, "The driver failed without saying why. See `dmesg`."),
}

NVML_CODES = tuple(_CODES)
"""Every NVML return code that is known, success left out."""


def nvml_error(code: int, what: str, meaning: str) -> DriverError:
    """Build the error for an NVML return code.

    Args:
        code: The return code.
        what: What was being done, such as ``locking GPU 0 at 1005 MHz``.
        meaning: The driver's own name for the code.

    Returns:
        The error, to be raised by the caller; its text ends in the remedy.
    """
    kind, remedy = _CODES.get(code, (DriverError, "See `dmesg`, and update nvidia-ml-py."))
    return kind(f"{what} failed: {meaning} (NVML {code}). {remedy}", code)


_REMEDIES: dict[type[DriverError], str] = {
    PartitionedGpuError: (
        "Its clock is shared by all instances and is not touched. Disable MIG (`nvidia-smi -i "
        "{gpu} -mig 0`) or leave it out."
    ),
    SilentFailureError: "Run `nvidia-smi -i {gpu} -rgc` and look at it.",
    VolatileSettingsError: "Run nvidia-persistenced (or `nvidia-smi -pm 1`).",
    PermissionDeniedError: _CODES[4][1],
    NotSupportedError: _CODES[NOT_SUPPORTED][1],
    NoSuchGpuError: _CODES[NOT_FOUND][1],
    DriverArgumentError: _CODES[2][1],
    DriverNotLoadedError: _CODES[9][1],
    DriverBusyError: _CODES[10][1],
    GpuLostError: _CODES[15][1],
}


def nvml_remedy(kind: type[DriverError], gpu: str) -> str:
    """What to do about a kind of fault on NVIDIA boards.

    Args:
        kind: The kind.
        gpu: UUID of the GPU.
    """
    return _REMEDIES[kind].format(gpu=gpu)
