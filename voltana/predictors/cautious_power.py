"""A power model on the safe side: as much above its inner model as that was lately wrong.

A model that has seen nothing may be off by half, and one whose form does not fit the device stays
off. So the excess starts high, is raised at once by a window that took more than the model gives
for it even after having learned from it, and fades by a constant share a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.ports import FreezesPower

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import PowerPredictor, PowerSnapshot
    from voltana.values import Exposure, FloatArray, Load


class CautiousPower:
    """Satisfies `voltana.ports.PowerPredictor`; teaches the inner model.

    Args:
        power: The inner model; others may ask it too, but must not teach it.
        start: Share by which real power may exceed it before anything was learned.
        keep: Share of the excess that is kept at each window.

    Attributes:
        excess: Share that is added now.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(self, power: PowerPredictor, *, start: float = 0.5, keep: float = 0.5) -> None:
        if not 0 <= start < math.inf:
            raise invalid("start", start, "0 or more, finite", "0.5 is 50 %.")
        if not 0 <= keep < 1:
            raise invalid("keep", keep, "0 or more, below 1", "0.5 halves it at each window.")
        self.excess = start
        self._power = power
        self._keep = keep

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """See `voltana.ports.PowerPredictor.forecast_w`; the bound, not the mean."""
        bound_w: FloatArray = (1.0 + self.excess) * self._power.forecast_w(load, clocks_mhz)
        return bound_w

    def learn_window(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """See `voltana.ports.PowerPredictor.learn_window`."""
        self._power.learn_window(energy_j, exposures)
        expected_j = sum(
            float(self._power.forecast_w(e.load, np.array([e.clock_mhz]))[0]) * e.duration_s
            for e in exposures
        )
        if not (0 < expected_j < math.inf and 0 < energy_j < math.inf):
            return
        # A counter that jumped says nothing about power: more than the start is not believed.
        missed = min(energy_j / expected_j - 1.0, 1.0)
        self.excess = max(self._keep * self.excess, missed)

    def snapshot(self) -> PowerSnapshot:
        """See `voltana.ports.FreezesPower.snapshot`; of the bound.

        Raises:
            TypeError: If the inner model has none.
        """
        if not isinstance(self._power, FreezesPower):
            raise TypeError(f"{self._power!r} has no snapshot(): see voltana.ports.FreezesPower")
        return CautiousPowerSnapshot(power=self._power.snapshot(), excess=self.excess)

    def __repr__(self) -> str:
        return f"CautiousPower({self._power!r}, excess={self.excess:.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CautiousPowerSnapshot:
    """A frozen power model on the safe side; satisfies `voltana.ports.PowerSnapshot`.

    Attributes:
        power: The inner model.
        excess: Share that is added.
    """

    power: PowerSnapshot
    excess: float

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """See `voltana.ports.PowerForecasts.forecast_w`; the bound, not the mean."""
        bound_w: FloatArray = (1.0 + self.excess) * self.power.forecast_w(load, clocks_mhz)
        return bound_w

    def to_dict(self) -> Mapping[str, object]:
        """Plain JSON values: the inner model's, and the excess."""
        return {"power": dict(self.power.to_dict()), "excess": self.excess}
