"""The NVIDIA driver through NVML, behind the port; the only file that imports pynvml.

Units are converted here and nowhere else: NVML speaks milliwatts and millijoules. Calls block for
3-11 ms where they change a setting. This module knows nothing of leases, threads or policies, and
imports no numeric package, so that the privileged daemon stays small.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pynvml

from voltana_actuatord.drivers.nvml_faults import (
    NOT_FOUND,
    NOT_SUPPORTED,
    nvml_error,
    nvml_remedy,
)
from voltana_actuatord.drivers.port import SLOWING, PowerRange, Reason
from voltana_actuatord.faults import (
    DriverArgumentError,
    DriverError,
    DriverNotLoadedError,
    NotSupportedError,
    PartitionedGpuError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

if not hasattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons"):
    # The deprecated package's folder goes before the module, whatever pip says of versions.
    raise DriverNotLoadedError("an old pynvml package shadows nvidia-ml-py: pip uninstall pynvml")

EVENT_REASONS = {
    0x1: Reason.IDLE,
    0x2: Reason.SETTING,
    0x4: Reason.POWER_CAP,
    0x8: Reason.HARDWARE,
    0x10: Reason.SYNC,
    0x20: Reason.SOFTWARE_HEAT,
    0x40: Reason.HARDWARE_HEAT,
    0x80: Reason.POWER_BRAKE,
    0x100: Reason.DISPLAY,
}
"""The bits of nvmlClocksEventReasons (nvml.h); by value, since old bindings lack the names."""


def _call(what: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call NVML, and turn its return code into a typed error."""
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        raise nvml_error(int(error.value), what, str(error)) from None


class NvmlDriver:
    """NVML, initialised while the object is open; satisfies `drivers.port.GpuDriver`.

    Raises:
        DriverNotLoadedError: If there is no library or no driver.
    """

    def __init__(self) -> None:
        _call("starting NVML", pynvml.nvmlInit)
        self._open = True

    def close(self) -> None:
        """Let NVML go; without persistence mode, settings may vanish then."""
        if self._open:
            self._open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def version(self) -> str:
        """See `GpuDriver.version`."""
        return str(_call("reading the driver version", pynvml.nvmlSystemGetDriverVersion))

    def count(self) -> int:
        """See `GpuDriver.count`."""
        return int(_call("counting GPUs", pynvml.nvmlDeviceGetCount))

    def gpu(self, name: str | int) -> NvmlGpu:
        """See `GpuDriver.gpu`."""
        label = f"GPU {name}" if isinstance(name, int) else name
        if label.startswith("MIG-"):
            raise PartitionedGpuError(
                f"{label} is a part of a GPU (MIG). {nvml_remedy(PartitionedGpuError, 'GPU')}"
            )
        by_name = (
            pynvml.nvmlDeviceGetHandleByIndex
            if isinstance(name, int)
            else pynvml.nvmlDeviceGetHandleByUUID
        )
        try:
            handle = _call(f"opening {label}", by_name, name)
        except DriverArgumentError as error:
            raise nvml_error(NOT_FOUND, f"opening {label}", "Not Found") from error
        return NvmlGpu(handle, label)


class NvmlGpu:
    """One GPU; satisfies `drivers.port.Gpu`.

    Args:
        handle: NVML's handle.
        label: What texts call it.
    """

    def __init__(self, handle: object, label: str) -> None:
        self.label = label
        self._handle = handle
        self.uuid = str(self._get("reading the UUID", pynvml.nvmlDeviceGetUUID))

    def name(self) -> str:
        """See `GpuIdentity.name`."""
        return str(self._get("reading the name", pynvml.nvmlDeviceGetName))

    def remedy(self, kind: type[DriverError]) -> str:
        """See `GpuIdentity.remedy`."""
        return nvml_remedy(kind, self.uuid)

    def clocks_mhz(self) -> tuple[float, ...]:
        """Supported SM clocks at the fastest memory clock, ascending."""
        memory = self._get("reading memory clocks", pynvml.nvmlDeviceGetSupportedMemoryClocks)
        if not memory:
            what = f"listing the clocks of {self.label}"
            raise nvml_error(NOT_SUPPORTED, what, "Not Supported")
        clocks = _call(
            f"reading the clocks of {self.label}",
            pynvml.nvmlDeviceGetSupportedGraphicsClocks,
            self._handle,
            max(memory),
        )
        return tuple(sorted(float(mhz) for mhz in set(clocks)))

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        """Hold the SM clock within a range; it outlives this process until `reset`."""
        _call(
            f"locking {self.label} at {max_mhz:g} MHz",
            pynvml.nvmlDeviceSetGpuLockedClocks,
            self._handle,
            round(min_mhz),
            round(max_mhz),
        )

    def reset(self) -> None:
        """Give the default clocks back."""
        self._get("resetting the clocks", pynvml.nvmlDeviceResetGpuLockedClocks)

    def clock_mhz(self) -> float:
        """SM clock that runs now."""
        what = f"reading the clock of {self.label}"
        return float(_call(what, pynvml.nvmlDeviceGetClockInfo, self._handle, pynvml.NVML_CLOCK_SM))

    def in_force_mhz(self) -> float:
        """What a setting is checked against: the clock that runs."""
        return self.clock_mhz()

    def unlocked_mhz(self) -> float:
        """The application clock, which a lock supersedes; at the fastest it holds nothing down."""
        try:
            set_mhz = self._application_mhz(pynvml.nvmlDeviceGetApplicationsClock)
        except DriverError as error:  # deprecated: not every board and driver has them
            if error.transient:
                raise
            return math.inf
        return set_mhz if set_mhz < self.clocks_mhz()[-1] else math.inf

    def event_reasons(self) -> frozenset[Reason]:
        """See `GpuState.event_reasons`."""
        try:
            bits = self._get(
                "reading clock event reasons", pynvml.nvmlDeviceGetCurrentClocksEventReasons
            )
        except NotSupportedError:  # drivers before 535 know the older name only
            bits = self._get(
                "reading clock event reasons", pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
            )
        reasons = frozenset(reason for bit, reason in EVENT_REASONS.items() if bits & bit)
        if Reason.SETTING in reasons and self._runs_as_delivered(reasons):
            return reasons - {Reason.SETTING}
        return reasons

    def power_w(self) -> float:
        """Board power: an average on A100 and later, sampled a quarter of the time."""
        return float(self._get("reading power", pynvml.nvmlDeviceGetPowerUsage)) / 1e3

    def energy_j(self) -> float:
        """Energy counter since the driver was loaded; it ticks every 10-100 ms."""
        return float(self._get("reading energy", pynvml.nvmlDeviceGetTotalEnergyConsumption)) / 1e3

    def power_limit_w(self) -> float:
        """Power limit in force."""
        return (
            float(self._get("reading the power limit", pynvml.nvmlDeviceGetPowerManagementLimit))
            / 1e3
        )

    def power_range(self) -> PowerRange:
        """Limits that may be set."""
        low, high = self._get(
            "reading the range of power limits", pynvml.nvmlDeviceGetPowerManagementLimitConstraints
        )
        default = self._get(
            "reading the default power limit", pynvml.nvmlDeviceGetPowerManagementDefaultLimit
        )
        return PowerRange(min_w=low / 1e3, max_w=high / 1e3, default_w=default / 1e3)

    def set_power_limit(self, watts: float) -> None:
        """Limit the board's power; it outlives this process."""
        _call(
            f"limiting {self.label} to {watts:g} W",
            pynvml.nvmlDeviceSetPowerManagementLimit,
            self._handle,
            round(watts * 1e3),
        )

    def keeps_settings(self) -> bool:
        """Whether settings stay when the last process lets the driver go."""
        mode = self._get("reading persistence mode", pynvml.nvmlDeviceGetPersistenceMode)
        return bool(mode)

    def refuse_partitioned(self) -> None:
        """See `GpuState.refuse_partitioned`."""
        try:
            current, pending = self._get("reading MIG mode", pynvml.nvmlDeviceGetMigMode)
        except NotSupportedError:  # boards without MIG say so
            return
        if current or pending:
            remedy = self.remedy(PartitionedGpuError)
            raise PartitionedGpuError(f"{self.label} is in MIG mode. {remedy}")

    def _runs_as_delivered(self, reasons: frozenset[Reason]) -> bool:
        """Whether the bit for a setting says no more than that the board has its default clocks.

        Boards that are delivered with an application clock below their fastest set it for ever. A
        lock of somebody's shows there only by a clock that runs below that one for no other reason.
        """
        try:
            now_mhz = self._application_mhz(pynvml.nvmlDeviceGetApplicationsClock)
            default_mhz = self._application_mhz(pynvml.nvmlDeviceGetDefaultApplicationsClock)
        except DriverError as error:
            if error.transient:
                raise
            return False
        if now_mhz != default_mhz or now_mhz >= self.clocks_mhz()[-1]:
            return False
        return not SLOWING.isdisjoint(reasons) or self.clock_mhz() >= now_mhz

    def _application_mhz(self, read: Callable[[object, int], int]) -> float:
        what = f"reading the application clock of {self.label}"
        return float(_call(what, read, self._handle, pynvml.NVML_CLOCK_GRAPHICS))

    def _get(self, what: str, function: Callable[[object], _T]) -> _T:
        return _call(f"{what} of {self.label}", function, self._handle)
