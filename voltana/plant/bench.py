"""A simulated machine to profile on: as with a real one, only measured latencies come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.plant.iteration import PlantModel
    from voltana.plant.noise import LognormalNoise
    from voltana.values import Load


class PlantBench:
    """Measures iterations at settled clocks.

    Args:
        plant: Latency of a load at a clock.
        noise: Factor on each measurement.
    """

    def __init__(self, plant: PlantModel, noise: LognormalNoise) -> None:
        self._plant = plant
        self._noise = noise

    def measure_s(self, load: Load, clock_mhz: float) -> float:
        """Run `load` once at `clock_mhz` and return its measured, noisy latency."""
        return self._plant.iterate(load, clock_mhz).latency_s * self._noise.draw()
