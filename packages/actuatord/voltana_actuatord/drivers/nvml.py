"""The NVIDIA driver through NVML; the only file that imports pynvml.

Units are converted here and nowhere else: NVML speaks milliwatts and millijoules. Calls block for
3-11 ms where they change a setting. This module knows nothing of leases, threads or ports, and
imports no numeric package, so that the privileged daemon stays small.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pynvml

from voltana_actuatord.faults import (
    DriverArgumentError,
    DriverError,
    MigEnabledError,
    NotSupportedError,
    driver_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

EVENT_REASONS: dict[int, str] = {
    pynvml.nvmlClocksEventReasonGpuIdle: "idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "clock setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "software thermal slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware thermal slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display clock setting",
}
"""Clock event reasons in words (NVML, nvmlClocksEventReasons); `faults.SLOWING` names some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRange:
    """Power limits of a board in watts: the range that may be set, and its default."""

    min_w: float
    max_w: float
    default_w: float


def _call(what: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call NVML, and turn its return code into a typed error."""
    try:
        return function(*args, **kwargs)
    except pynvml.NVMLError as error:
        raise driver_error(int(error.value), what, str(error)) from None


class Driver:
    """NVML, initialised while the object is open; a context manager.

    Raises:
        DriverNotLoadedError: If there is no library or no driver.
    """

    def __init__(self) -> None:
        _call("starting NVML", pynvml.nvmlInit)

    def close(self) -> None:
        """Let NVML go; without persistence mode, settings may vanish then."""
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self) -> str:
        """Version of the driver."""
        return str(_call("reading the driver version", pynvml.nvmlSystemGetDriverVersion))

    def count(self) -> int:
        """Number of GPUs that are visible here."""
        return int(_call("counting GPUs", pynvml.nvmlDeviceGetCount))

    def gpu(self, index: int) -> Gpu:
        """The GPU with an index.

        Raises:
            NoSuchGpuError: If there is none.
        """
        what = f"opening GPU {index}"
        try:
            handle = _call(what, pynvml.nvmlDeviceGetHandleByIndex, index)
        except DriverArgumentError as error:
            raise driver_error(pynvml.NVML_ERROR_NOT_FOUND, what, "Not Found") from error
        return Gpu(index, handle)

    def gpu_by_uuid(self, uuid: str) -> Gpu:
        """The GPU with a UUID, whatever its index is now.

        Raises:
            NoSuchGpuError: If there is none.
        """
        handle = _call(f"opening GPU {uuid}", pynvml.nvmlDeviceGetHandleByUUID, uuid)
        for index in range(self.count()):
            if self.gpu(index).uuid() == uuid:
                return Gpu(index, handle)
        raise driver_error(6, f"opening GPU {uuid}", "not found")


class Gpu:
    """One GPU. Every method is one or two driver calls and raises a `DriverError`.

    Args:
        index: Its index, for texts.
        handle: NVML's handle.
    """

    def __init__(self, index: int, handle: object) -> None:
        self.index = index
        self._handle = handle

    def uuid(self) -> str:
        """Its UUID, which outlives a change of indices."""
        return str(self._get("reading the UUID", pynvml.nvmlDeviceGetUUID))

    def name(self) -> str:
        """Name of the board."""
        return str(self._get("reading the name", pynvml.nvmlDeviceGetName))

    def clocks_mhz(self) -> tuple[float, ...]:
        """Supported SM clocks at the fastest memory clock, ascending."""
        memory = self._get("reading memory clocks", pynvml.nvmlDeviceGetSupportedMemoryClocks)
        if not memory:
            what = f"listing the clocks of GPU {self.index}"
            raise driver_error(pynvml.NVML_ERROR_NOT_SUPPORTED, what, "Not Supported")
        clocks = _call(
            f"reading the clocks of GPU {self.index}",
            pynvml.nvmlDeviceGetSupportedGraphicsClocks,
            self._handle,
            max(memory),
        )
        return tuple(sorted(float(mhz) for mhz in set(clocks)))

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        """Hold the SM clock within a range; it outlives this process until `reset`."""
        _call(
            f"locking GPU {self.index} at {max_mhz:g} MHz",
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
        what = f"reading the clock of GPU {self.index}"
        return float(_call(what, pynvml.nvmlDeviceGetClockInfo, self._handle, pynvml.NVML_CLOCK_SM))

    def in_force_mhz(self) -> float:
        """What a setting is checked against: the clock that runs."""
        return self.clock_mhz()

    def event_reasons(self) -> frozenset[str]:
        """Why the clock is what it is, in the words of `EVENT_REASONS`."""
        try:
            bits = self._get(
                "reading clock event reasons", pynvml.nvmlDeviceGetCurrentClocksEventReasons
            )
        except NotSupportedError:  # drivers before 535 know the older name only
            bits = self._get(
                "reading clock event reasons", pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
            )
        return frozenset(name for bit, name in EVENT_REASONS.items() if bits & bit)

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
            f"limiting GPU {self.index} to {watts:g} W",
            pynvml.nvmlDeviceSetPowerManagementLimit,
            self._handle,
            round(watts * 1e3),
        )

    def persistence_mode(self) -> bool:
        """Whether settings stay when the last process lets the driver go."""
        mode = self._get("reading persistence mode", pynvml.nvmlDeviceGetPersistenceMode)
        return bool(mode)

    def refuse_mig(self) -> None:
        """Check that the GPU is not split.

        Raises:
            MigEnabledError: If MIG is enabled or about to be.
        """
        try:
            current, pending = self._get("reading MIG mode", pynvml.nvmlDeviceGetMigMode)
        except NotSupportedError:  # boards without MIG say so
            return
        if current or pending:
            raise MigEnabledError(
                f"GPU {self.index} is in MIG mode: its clock is shared by all instances and is not "
                f"touched. Disable MIG (`nvidia-smi -i {self.index} -mig 0`) or leave it out."
            )

    def _get(self, what: str, function: Callable[[object], _T]) -> _T:
        return _call(f"{what} of GPU {self.index}", function, self._handle)


def nvml_clock_table(device: int = 0) -> tuple[float, ...]:
    """Supported SM clocks of a GPU in MHz, ascending; needs no privilege.

    Args:
        device: Index of the GPU.

    Raises:
        DriverError: If there is no driver, no such GPU, or no list of clocks.
    """
    try:
        with Driver() as driver:
            return driver.gpu(device).clocks_mhz()
    except DriverError as error:
        raise type(error)(
            f"the clocks of GPU {device} cannot be read: {error} Run nvidia-smi to see which GPUs "
            "and drivers there are, or name the clocks in MHz.",
            error.code,
        ) from error
