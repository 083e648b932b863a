"""Who forecasts power, and what else a power model may tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.values import Exposure, FloatArray, Load


@runtime_checkable
class PowerForecasts(Protocol):
    """Anything that can forecast power: a live predictor or a frozen snapshot of one."""

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """Mean power in watts of all devices of the instance at every clock; mutates nothing."""
        ...


class PowerCurve(Protocol):
    """Power of one load against the clock, one clock at a time; never falls with it."""

    def power_w(self, clock_mhz: float) -> float:
        """What `forecast_w` has there, up to rounding."""
        ...


@runtime_checkable
class TellsPowerCurve(Protocol):
    """What a power model is beside that if a few clocks cost it less than a whole forecast."""

    def power_curve(self, load: Load) -> PowerCurve | None:
        """The power of `load`; None where it may fall somewhere."""
        ...


@runtime_checkable
class PowerSnapshot(PowerForecasts, Protocol):
    """A frozen, serialisable copy of a power predictor."""

    def to_dict(self) -> Mapping[str, object]:
        """The snapshot as plain JSON values."""
        ...


@runtime_checkable
class PowerPredictor(PowerForecasts, Protocol):
    """Power model that learns from windows of the energy counter, not from iterations."""

    def learn_window(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """Learn from the energy of one window and what ran in it, idle stretches included."""
        ...


@runtime_checkable
class FreezesPower(Protocol):
    """What a power predictor is beside that if routers in other processes are to plan on it."""

    def snapshot(self) -> PowerSnapshot:
        """A frozen copy; later learning does not change it."""
        ...
