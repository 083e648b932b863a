"""Typed errors for what a GPU driver and the actuator daemon can answer, by kind.

One class per situation that a program may want to tell apart. A vendor's driver maps its own codes
to these kinds and says what to do about each; nothing here knows a vendor, so that clients without
a GPU can raise and catch them.
"""

from __future__ import annotations

from voltana_actuatord.errors import ActuatorError


class DriverError(ActuatorError):
    """The driver refused a call.

    Attributes:
        code: The driver's own return code; 0 where there is none.
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
    """There is no working driver, or it cannot be reached from here."""


class DriverBusyError(DriverError):
    """The driver could not answer now."""

    transient = True


class NoSuchGpuError(DriverError):
    """No GPU answers to this index or UUID."""


class DriverArgumentError(DriverError):
    """The driver does not accept the value."""


class PartitionedGpuError(DriverError):
    """The GPU is split (MIG): its clock belongs to several tenants."""


class SilentFailureError(DriverError):
    """A call succeeded and changed nothing."""


class ForeignSettingError(DriverError):
    """Somebody else sets this GPU's clocks."""


class VolatileSettingsError(DriverError):
    """Settings vanish when the last process lets the driver go."""


KINDS: tuple[type[DriverError], ...] = (
    PermissionDeniedError,
    NotSupportedError,
    GpuLostError,
    DriverNotLoadedError,
    DriverBusyError,
    NoSuchGpuError,
    DriverArgumentError,
    PartitionedGpuError,
    SilentFailureError,
    VolatileSettingsError,
)
"""Every kind of fault for which a vendor has a remedy."""


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
