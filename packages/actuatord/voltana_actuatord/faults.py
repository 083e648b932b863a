"""Typed errors for what a GPU driver and the actuator daemon can answer, each with its remedy.

One class per situation that a program may want to tell apart; every NVML return code maps to one
of them. Nothing here imports pynvml, so that clients without a GPU can raise and catch them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

SLOWING = frozenset(
    {
        "idle",
        "power cap",
        "hardware slowdown",
        "sync boost",
        "software thermal slowdown",
        "hardware thermal slowdown",
        "power brake",
    }
)
"""Clock event reasons for which a clock below the one that was set is nobody's failure."""


class DriverError(ActuatorError):
    """The driver refused a call.

    Attributes:
        code: NVML return code; 0 where there is none.
        transient: Whether the same call may succeed later without anybody's doing.
    """

    transient = False

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class PermissionDeniedError(DriverError):
    """Changing a setting needs root, or CAP_SYS_ADMIN in a container."""


class NotSupportedError(DriverError):
    """The board or its driver cannot do this."""


class GpuLostError(DriverError):
    """The GPU fell off the bus or needs a reset."""


class DriverNotLoadedError(DriverError):
    """There is no working NVIDIA driver, or it cannot be reached from here."""


class DriverBusyError(DriverError):
    """The driver could not answer now."""

    transient = True


class NoSuchGpuError(DriverError):
    """No GPU answers to this index or UUID."""


class DriverArgumentError(DriverError):
    """The driver does not accept the value."""


class MigEnabledError(DriverError):
    """The GPU is split by MIG: its clock belongs to several tenants."""


class SilentFailureError(DriverError):
    """A call succeeded and changed nothing."""


class LeaseRefusedError(ActuatorError):
    """The daemon does not grant the lease.

    Attributes:
        transient: Whether it may do so in a moment: a GPU is being restored.
    """

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


class DaemonUnavailableError(ActuatorError):
    """The daemon cannot be reached."""


_REMEDIES: dict[int, tuple[type[DriverError], str]] = {
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

NVML_CODES = tuple(_REMEDIES)
"""Every NVML return code that is known, success left out."""


def driver_error(code: int, what: str, meaning: str) -> DriverError:
    """Build the error for an NVML return code.

    Args:
        code: The return code.
        what: What was being done, such as ``locking GPU 0 at 1005 MHz``.
        meaning: The driver's own name for the code.

    Returns:
        The error, to be raised by the caller; its text ends in the remedy.
    """
    kind, remedy = _REMEDIES.get(code, (DriverError, "See `dmesg`, and update nvidia-ml-py."))
    return kind(f"{what} failed: {meaning} (NVML {code}). {remedy}", code)


def retry_transient(call: Callable[[], _T], attempts: int = 3) -> _T:
    """Call the driver again at once while it is merely busy.

    Raises:
        DriverError: The last one.
    """
    for _ in range(attempts - 1):
        try:
            return call()
        except DriverError as error:
            if not error.transient:
                raise
    return call()
