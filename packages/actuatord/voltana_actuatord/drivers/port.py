"""What a vendor's driver has to offer: the only view of GPUs that anything outside drivers/ has.

A vendor is one file (and one of its remedies) that satisfies `GpuDriver` and `Gpu`;
`voltana_actuatord.testing.check_driver` holds it to what is written here, and
`drivers.opening` finds it. GPUs are named by UUID. An index is known only to the process that
counted; no other may be told one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from voltana_actuatord.faults import DriverError


class Reason(enum.StrEnum):
    """Why a clock is what it is, in the words of status and log."""

    IDLE = "idle"
    SETTING = "clock setting"  # somebody's, a board's own defaults left out
    POWER_CAP = "power cap"
    HARDWARE = "hardware slowdown"
    SYNC = "sync boost"
    SOFTWARE_HEAT = "software thermal slowdown"
    HARDWARE_HEAT = "hardware thermal slowdown"
    POWER_BRAKE = "power brake"
    DISPLAY = "display clock setting"


SLOWING = frozenset(Reason) - {Reason.SETTING, Reason.DISPLAY}
"""Reasons for which a clock below the one that was set is nobody's failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRange:
    """Power limits of a board in watts: the range that may be set, and its default."""

    min_w: float
    max_w: float
    default_w: float


class GpuIdentity(Protocol):
    """Which GPU it is.

    Attributes:
        uuid: Its name for every process and after every reboot.
        label: What texts call it: its UUID, or the index that its own process asked for it by.
    """

    uuid: str
    label: str

    def name(self) -> str:
        """Name of the board."""
        ...

    def remedy(self, kind: type[DriverError]) -> str:
        """What a user of this vendor does about a kind of fault, as a sentence or two."""
        ...


class GpuClock(Protocol):
    """Its SM clock as a setting. `lock` and `reset` block for milliseconds and need privilege."""

    def clocks_mhz(self) -> tuple[float, ...]:
        """Clocks that may be set, ascending; reads only."""
        ...

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        """Hold the clock within a range; it outlives this process until `reset`.

        Raises:
            DriverArgumentError: If a clock is not in the table, or the range is empty.
            PermissionDeniedError: Without the privilege.
        """
        ...

    def reset(self) -> None:
        """Give the default clocks back; harmless where nothing is set."""
        ...

    def in_force_mhz(self) -> float:
        """What a setting is checked against: the clock that runs."""
        ...


class GpuState(Protocol):
    """What bears on its clock."""

    def event_reasons(self) -> frozenset[Reason]:
        """Why the clock is what it is."""
        ...

    def unlocked_mhz(self) -> float:
        """Clock to which something other than `lock` holds it down; infinite if nothing does.

        Such as the board's own default, or a setting of another kind.
        """
        ...

    def keeps_settings(self) -> bool:
        """Whether settings stay when the last process lets the driver go."""
        ...

    def refuse_partitioned(self) -> None:
        """Check that the clock belongs to one tenant.

        Raises:
            PartitionedGpuError: If the GPU is split, or about to be.
        """
        ...


class GpuMeter(Protocol):
    """What it does; no privilege. A board without one of them raises `NotSupportedError`."""

    def clock_mhz(self) -> float:
        """SM clock that runs now."""
        ...

    def power_w(self) -> float:
        """Power of the board."""
        ...

    def energy_j(self) -> float:
        """Energy counter since an arbitrary zero; never falls, may move in ticks of 10-100 ms."""
        ...


class GpuPower(Protocol):
    """Its power limit as a setting."""

    def power_limit_w(self) -> float:
        """Limit in force."""
        ...

    def power_range(self) -> PowerRange:
        """Limits that may be set."""
        ...

    def set_power_limit(self, watts: float) -> None:
        """Limit the board's power; it outlives this process.

        Raises:
            DriverArgumentError: If the limit is outside `power_range`.
            PermissionDeniedError: Without the privilege.
        """
        ...


class Settable(GpuIdentity, GpuClock, Protocol):
    """What a channel and a restore need: a setting with levels in MHz, by whatever mechanism."""

    def event_reasons(self) -> frozenset[Reason]:
        """Why what is in force may differ from what was set."""
        ...

    def unlocked_mhz(self) -> float:
        """See `GpuState.unlocked_mhz`."""
        ...


class Gpu(GpuIdentity, GpuClock, GpuState, GpuMeter, GpuPower, Protocol):
    """One GPU. Every method is a call of the driver or two, and raises a `DriverError`."""


@runtime_checkable
class GpuDriver(Protocol):
    """A vendor's driver, open until `close`."""

    def gpu(self, name: str | int) -> Gpu:
        """The GPU with a UUID, or with an index of this process's own counting.

        Raises:
            NoSuchGpuError: If it is not visible here.
            PartitionedGpuError: If the name is that of a part of a GPU.
        """
        ...

    def count(self) -> int:
        """Number of GPUs that are visible here: indices run from 0 to it."""
        ...

    def version(self) -> str:
        """Version of the driver."""
        ...

    def close(self) -> None:
        """Let the driver go; may be called twice."""
        ...
