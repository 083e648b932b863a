"""Give a GPU its default clocks back, and make sure of it.

Used by whoever holds NVML, and as a short-lived process of its own: the watchdog starts one when
its worker fell silent, systemd when the service stopped (``voltana-actuatord --restore``). NVML
cannot be asked whether a clock is locked, so the evidence is the clock that runs and the clock
event reasons; the reset is sent twice, since it is harmless and some settings fail silently.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from voltana_actuatord.drivers.nvml import Driver
from voltana_actuatord.faults import SLOWING, DriverError, NoSuchGpuError, SilentFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana_actuatord.daemon.journal import Journal

ATTEMPTS = 5
SETTLE_S = 0.02


class Settable(Protocol):
    """A GPU whose clock can be set and read back, by whatever mechanism."""

    index: int

    def uuid(self) -> str:
        """Its UUID."""
        ...

    def clocks_mhz(self) -> tuple[float, ...]:
        """Clocks that may be set, ascending."""
        ...

    def lock(self, min_mhz: float, max_mhz: float) -> None:
        """Set the clock."""
        ...

    def reset(self) -> None:
        """Give the default back."""
        ...

    def in_force_mhz(self) -> float:
        """What the setting is checked against."""
        ...

    def event_reasons(self) -> frozenset[str]:
        """Why it may differ."""
        ...


def restore_gpu(
    gpu: Settable,
    *,
    was_mhz: float | None = None,
    had_setting: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Reset the locked clocks of a GPU until they are at their default by all that can be read.

    Args:
        gpu: The GPU.
        was_mhz: Clock that it was locked at, if it is known and below the fastest one.
        had_setting: Whether somebody else had set a clock before, so that the event reason for
            it says nothing.
        sleep: Waits for so many seconds.

    Raises:
        SilentFailureError: If the clock stays where it was locked without any other reason.
        DriverError: If the driver refuses.
    """
    clock_mhz = 0.0
    stuck = False
    for _ in range(ATTEMPTS):
        gpu.reset()
        gpu.reset()
        sleep(SETTLE_S)
        clock_mhz, reasons = gpu.in_force_mhz(), _reasons(gpu)
        stuck = clock_mhz == was_mhz and reasons.isdisjoint(SLOWING)
        if not stuck and ("clock setting" not in reasons or had_setting):
            return
    if stuck:
        raise SilentFailureError(
            f"GPU {gpu.index} still runs at {clock_mhz:g} MHz after {ATTEMPTS} resets that the "
            f"driver reported as done. Run `nvidia-smi -i {gpu.index} -rgc` and look at it."
        )


def restore_marked(journal: Journal, only: Iterable[str] | None = None) -> dict[str, str]:
    """Restore every GPU that the journal marks, each one as if the others did not exist.

    Args:
        journal: Marks are cleared as their GPUs are restored.
        only: UUIDs to restrict this to.

    Returns:
        What went wrong, by UUID; empty if everything is at its defaults.

    Raises:
        DriverNotLoadedError: If there is no driver; then no clock is locked either, but the marks
            stay until that can be checked.
    """
    marked = [uuid for uuid in journal.marked() if only is None or uuid in set(only)]
    failures: dict[str, str] = {}
    if not marked:
        return failures
    with Driver() as driver:
        for uuid in marked:
            try:
                gpu = driver.gpu_by_uuid(uuid)
                restore_gpu(gpu, had_setting=journal.had_setting(uuid))
            except NoSuchGpuError as error:
                journal.clear(uuid)  # taken out of the machine, and its lock with it
                failures[uuid] = str(error)
            except DriverError as error:
                failures[uuid] = str(error)
            else:
                journal.clear(uuid)
    return failures


def _reasons(gpu: Settable) -> frozenset[str]:
    try:
        return gpu.event_reasons()
    except DriverError:
        return frozenset()
