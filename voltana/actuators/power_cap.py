"""`PowerCapActuator`: the same port, with the board's power limit as the mechanism.

A level stands for a limit in watts, so that every controller can drive caps: the clock of a level
is what the board is expected to reach under that limit. Caps bind only where the load draws more
than the limit; on decode-heavy boards they often never do, and clocks are the better knob.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.actuators.local import LocalActuator
from voltana.errors import invalid
from voltana_actuatord.drivers.opening import open_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana.values import Domain
    from voltana_actuatord.drivers.port import Gpu, GpuDriver, Reason
    from voltana_actuatord.faults import DriverError


class CappedGpu:
    """One GPU whose levels are power limits.

    Args:
        gpu: The GPU.
        watts: Limit in watts of every level in MHz.
    """

    def __init__(self, gpu: Gpu, watts: Mapping[float, float]) -> None:
        self.uuid, self.label = gpu.uuid, gpu.label
        self._gpu = gpu
        self._watts = dict(sorted(watts.items()))
        self._default_w = gpu.power_range().default_w

    def name(self) -> str:
        """Name of the board."""
        return self._gpu.name()

    def remedy(self, kind: type[DriverError]) -> str:
        """See `GpuIdentity.remedy`."""
        return self._gpu.remedy(kind)

    def clocks_mhz(self) -> tuple[float, ...]:
        """The levels."""
        return tuple(self._watts)

    def lock(self, min_mhz: float, max_mhz: float) -> None:  # noqa: ARG002  (a cap has one end)
        """Set the limit of a level."""
        self._gpu.set_power_limit(self._watts[max_mhz])

    def reset(self) -> None:
        """Give the board's default limit back."""
        self._gpu.set_power_limit(self._default_w)

    def in_force_mhz(self) -> float:
        """The level whose limit is in force, or the nearest one."""
        limit_w = self._gpu.power_limit_w()
        return min(self._watts, key=lambda mhz: abs(self._watts[mhz] - limit_w))

    def unlocked_mhz(self) -> float:
        """Nothing else limits the limit."""
        return math.inf

    def event_reasons(self) -> frozenset[Reason]:
        """Nothing slows a limit down."""
        return frozenset()


def linear_caps(gpu: Gpu, *, levels: int = 8) -> dict[float, float]:
    """Levels evenly spaced over the board's range of limits, for where none were measured.

    Args:
        gpu: The GPU.
        levels: How many, 2 or more.

    Returns:
        Watts by level in MHz; the level's clock is the supported one at the same share of the
        range, which is a name rather than a promise.
    """
    span, clocks = gpu.power_range(), gpu.clocks_mhz()
    caps: dict[float, float] = {}
    for step in range(levels):
        share = step / (levels - 1)
        clock = clocks[round(share * (len(clocks) - 1))]
        caps[clock] = span.min_w + share * (span.max_w - span.min_w)
    return caps


class PowerCapActuator(LocalActuator):
    """Limits the power of a domain's GPUs through their driver; needs root.

    Args:
        domain: The GPUs that change as one.
        watts: Limit in watts of every level in MHz; None takes `linear_caps` of the first GPU.
        open_driver: Opens the driver.

    Raises:
        ConfigError: If a limit lies outside a board's range.
        DriverError: If there is no driver or no such GPU.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        watts: Mapping[float, float] | None = None,
        open_driver: Callable[[], GpuDriver] = open_driver,
    ) -> None:
        driver = open_driver()
        try:
            gpus = [driver.gpu(name) for name in domain.devices]
            caps = dict(watts) if watts is not None else linear_caps(gpus[0])
            for gpu in gpus:
                gpu.refuse_partitioned()
                _refuse_out_of_range(gpu, caps)
            super().__init__([CappedGpu(gpu, caps) for gpu in gpus], on_close=driver.close)
        except BaseException:
            driver.close()
            raise


def _refuse_out_of_range(gpu: Gpu, caps: Mapping[float, float]) -> None:
    span = gpu.power_range()
    for clock_mhz, limit_w in caps.items():
        if not span.min_w <= limit_w <= span.max_w:
            raise invalid(
                f"watts[{clock_mhz:g}]",
                limit_w,
                f"{span.min_w:g}-{span.max_w:g} W on {gpu.label}",
                "Move the limit into that range.",
            )
