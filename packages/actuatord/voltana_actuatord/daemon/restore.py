"""Give a GPU its default clocks back, and weigh what can be read of it.

A driver cannot be asked whether a clock is locked, and some resets succeed without doing anything.
The evidence is the clock that runs and the reasons that the driver gives for it. A reset is sent
twice, since it is harmless; whoever restores goes on until nothing contradicts it.
"""

from __future__ import annotations

import enum
import math
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from voltana_actuatord.drivers.port import SLOWING, Reason
from voltana_actuatord.faults import NotSupportedError, SilentFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana_actuatord.drivers.port import Settable

_T = TypeVar("_T")

ATTEMPTS = 5
SETTLE_S = 0.02
NEAR_MHZ = 1.0


class Caller(Protocol):
    """Makes a call of the driver, timed or not."""

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Make it."""
        ...


def directly(call: Callable[[], _T]) -> _T:
    """Make a call of the driver, and nothing else."""
    return call()


class Evidence(enum.Enum):
    """What can be read of a GPU after a reset.

    GONE: it runs as it could not under the lock. OPEN: nothing can be told, as on an idle GPU, or
    on one that is slower than the lock without a word why, as idle ones are that give no reasons.
    HELD: the lock seems to stand.
    """

    GONE = enum.auto()
    OPEN = enum.auto()
    HELD = enum.auto()


def weigh(
    clock_mhz: float,
    reasons: Collection[Reason],
    locked_mhz: Collection[float],
    *,
    had_setting: bool,
    unlocked_mhz: float = math.inf,
) -> Evidence:
    """Weigh a read-back after a reset. Pure.

    Args:
        clock_mhz: Clock that runs.
        reasons: Why it is what it is.
        locked_mhz: Clocks at which the lock may stand, those left out at which it would not show
            because the GPU runs at them without a lock as well.
        had_setting: Whether somebody else had set a clock before, so that the event reason for
            it says nothing.
        unlocked_mhz: See `GpuState.unlocked_mhz`: what runs at it shows no lock.
    """
    unlocked = abs(clock_mhz - unlocked_mhz) <= NEAR_MHZ
    if Reason.SETTING in reasons and not (had_setting or unlocked):
        return Evidence.HELD
    if Reason.IDLE in reasons:
        return Evidence.OPEN
    slowed = not SLOWING.isdisjoint(reasons)
    if not unlocked and any(abs(clock_mhz - mhz) <= NEAR_MHZ for mhz in locked_mhz):
        return Evidence.OPEN if slowed else Evidence.HELD
    slower = not unlocked and clock_mhz < max(locked_mhz, default=NEAR_MHZ)
    return Evidence.OPEN if slowed or slower else Evidence.GONE


def reset_and_weigh(
    gpu: Settable,
    locked_mhz: Collection[float],
    *,
    had_setting: bool,
    sleep: Callable[[float], None] = time.sleep,
    call: Caller = directly,
) -> Evidence:
    """Reset a GPU's clocks twice, and weigh what is read back.

    Args:
        gpu: The GPU.
        locked_mhz: See `weigh`.
        had_setting: See `weigh`.
        sleep: Waits for so many seconds.
        call: Makes each call of the driver.

    Raises:
        DriverError: If the driver refuses, or nothing can be read.
    """
    call(gpu.reset)
    call(gpu.reset)
    sleep(SETTLE_S)
    clock_mhz, reasons = call(gpu.in_force_mhz), call(lambda: reasons_of(gpu))
    unlocked_mhz = call(gpu.unlocked_mhz)
    return weigh(clock_mhz, reasons, locked_mhz, had_setting=had_setting, unlocked_mhz=unlocked_mhz)


def restore_gpu(
    gpu: Settable,
    *,
    locked_mhz: Collection[float] = (),
    had_setting: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Evidence:
    """Reset a GPU until nothing that can be read contradicts it, `ATTEMPTS` times at most.

    Args:
        gpu: The GPU.
        locked_mhz: See `weigh`.
        had_setting: See `weigh`.
        sleep: Waits for so many seconds.

    Returns:
        What is known then, never HELD.

    Raises:
        SilentFailureError: If the lock still seems to stand.
        DriverError: If the driver refuses.
    """
    for _ in range(ATTEMPTS):
        found = reset_and_weigh(gpu, locked_mhz, had_setting=had_setting, sleep=sleep)
        if found is not Evidence.HELD:
            return found
    raise SilentFailureError(doubt(gpu, ATTEMPTS))


def doubt(gpu: Settable, attempts: int) -> str:
    """Why a GPU is not taken to be at its default clocks."""
    return (
        f"{gpu.label} seems to be locked still after {2 * attempts} resets that the driver "
        f"reported as done. {gpu.remedy(SilentFailureError)}"
    )


def reasons_of(gpu: Settable) -> frozenset[Reason]:
    """Why the clock is what it is; nothing where the board cannot say."""
    try:
        return gpu.event_reasons()
    except NotSupportedError:
        return frozenset()
