"""Energy of an instance in windows, which the power model learns from, and what was saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.actuators.energy import EnergyMeter
from voltana.values import Exposure, Load

if TYPE_CHECKING:
    from voltana.serving.agent.group import Group
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor

IDLE = Load()
WINDOW_S = 10.0


class EnergyAccount:
    """Cuts energy into windows and hands them to the power model.

    Args:
        sensor: Reads the devices; without power readings nothing is accounted.
        group: The loops.
    """

    def __init__(self, sensor: SampledSensor | EchoSensor, group: Group) -> None:
        self._sensor = sensor
        self._group = group
        first = sensor.read()
        knows_power = math.isfinite(first.power_w) or math.isfinite(first.energy_j)
        self._meter = EnergyMeter(sensor, window_s=WINDOW_S) if knows_power else None
        self._spent_j = 0.0
        self._default_j = 0.0

    @property
    def total_j(self) -> float:
        """Energy since the start; nan where it is not known."""
        return math.nan if self._meter is None else self._meter.total_j

    @property
    def gap_s(self) -> float:
        """Seconds of which the energy is not known, and which are not in `total_j`."""
        return math.nan if self._meter is None else self._meter.gap_s

    @property
    def source(self) -> str | None:
        """Where the energy of the last window came from; None where it is not known."""
        return None if self._meter is None else self._meter.source.value

    def tick(self) -> None:
        """Take a reading, and close the window if it is over."""
        if self._meter is None:
            self._group.take_exposures()
            return
        window = self._meter.sample()
        if window is None:
            return
        # Taken whether or not the energy is known: they belong to this window and to no other.
        exposures = self._exposures(window.duration_s)
        if not math.isfinite(window.energy_j):
            return
        self._estimate(exposures)
        self._group.learn_energy(window.energy_j, exposures)

    def saving(self) -> float:
        """Estimated share of energy that the fastest clock would have used on top; nan at first.

        The power model's estimate for the same work over the same time: power at the clocks that
        were chosen, against power at the fastest one. It is no measurement.
        """
        return 1.0 - self._spent_j / self._default_j if self._default_j > 0 else math.nan

    def _exposures(self, duration_s: float) -> list[Exposure]:
        exposures = [
            Exposure(load=load, clock_mhz=clock_mhz, duration_s=latency_s)
            for load, clock_mhz, latency_s in self._group.take_exposures()
            if clock_mhz > 0
        ]
        rest_s = duration_s - sum(e.duration_s for e in exposures)
        clock_mhz = self._sensor.read().clock_mhz
        if rest_s > 0 and clock_mhz > 0:
            exposures.append(Exposure(load=IDLE, clock_mhz=clock_mhz, duration_s=rest_s))
        return exposures

    def _estimate(self, exposures: list[Exposure]) -> None:
        power = self._group.power()
        if power is None:
            return
        fastest_mhz = self._group.levels_mhz()[-1]
        for exposure in exposures:
            clocks_mhz = np.array([exposure.clock_mhz, max(fastest_mhz, exposure.clock_mhz)])
            chosen_w, default_w = power.forecast_w(exposure.load, clocks_mhz)
            self._spent_j += float(chosen_w) * exposure.duration_s
            self._default_j += float(default_w) * exposure.duration_s
