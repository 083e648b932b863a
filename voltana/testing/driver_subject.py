"""What the checks of a driver share: the subject, and how to wait for a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.testing.report import NotApplicable
from voltana_actuatord.faults import NotSupportedError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.drivers.port import Gpu, GpuDriver

POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSubject:
    """What `check_driver` was given."""

    make: Callable[[], GpuDriver]
    timeout_s: float
    tolerance_mhz: float

    def first(self) -> Gpu:
        """The first GPU of a driver that is opened for it."""
        return self.make().gpu(0)

    def reached(self, gpu: Gpu, clock_mhz: float) -> float:
        """The clock in force once it is `clock_mhz`, or the last one when the timeout ends."""
        ends_s = time.monotonic() + self.timeout_s
        while True:
            now_mhz = gpu.in_force_mhz()
            if self.near(now_mhz, clock_mhz) or time.monotonic() > ends_s:
                return now_mhz
            time.sleep(POLL_S)

    def near(self, now_mhz: float, clock_mhz: float) -> bool:
        """Whether a clock is the one that was set."""
        return abs(now_mhz - clock_mhz) <= self.tolerance_mhz


def change(call: Callable[[], None]) -> None:
    """Change a setting, or leave the check be where this process or board cannot."""
    try:
        call()
    except PermissionDeniedError:
        raise NotApplicable("this process lacks the privilege") from None
    except NotSupportedError:
        raise NotApplicable("the board has no such setting") from None
