"""Energy of an instance in windows, which the power model learns from, and what was saved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.actuators.energy import EnergyMeter, EnergySource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.serving.agent.group import Group
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor
    from voltana.values import Exposure

WINDOW_S = 10.0

SOURCES = {EnergySource.COUNTER: "counter", EnergySource.POWER: "power"}
"""Names of the sources of energy in metrics."""

TOLERANCE = 0.05
"""By what share of a window what ran may cover more or less of it: more teaches nothing. An engine
that came in mid-window, or a clock that was unknown, leaves a gap."""


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
        self._by_source = dict.fromkeys(EnergySource, 0.0)
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

    def by_source(self) -> dict[str, float]:
        """Energy since the start, by where it came from (`SOURCES`); empty where it is not known.

        Sources that have told nothing are left out; the sum is `total_j`.
        """
        if self._meter is None:
            return {}
        return {name: self._by_source[of] for of, name in SOURCES.items() if self._by_source[of]}

    def tick(self) -> None:
        """Take a reading, and close the window if it is over."""
        if self._meter is None:
            self._taken()
            return
        window = self._meter.sample()
        if window is None:
            return
        self._by_source[window.source] += window.measured_j
        # Taken whether or not the energy is known: they belong to this window and to no other.
        exposures = self._taken()
        covered_s = sum(exposure.duration_s for exposure in exposures)
        whole = abs(covered_s - window.duration_s) <= TOLERANCE * window.duration_s
        if not (whole and math.isfinite(window.energy_j)):
            return
        self._estimate(exposures)
        self._group.learn_energy(window.energy_j, exposures)

    def saving(self) -> float:
        """Estimated share of energy that the fastest clock would have used on top; nan at first.

        The power model's estimate for the same work over the same time: power at the clocks that
        were chosen, against power at the fastest one. It is no measurement.
        """
        return 1.0 - self._spent_j / self._default_j if self._default_j > 0 else math.nan

    def _taken(self) -> tuple[Exposure, ...]:
        reading = self._sensor.read()
        return self._group.take_exposures(reading.at_s, reading.clock_mhz)

    def _estimate(self, exposures: Sequence[Exposure]) -> None:
        power = self._group.power()
        if power is None:
            return
        fastest_mhz = self._group.levels_mhz()[-1]
        for exposure in exposures:
            clocks_mhz = np.array([exposure.clock_mhz, max(fastest_mhz, exposure.clock_mhz)])
            chosen_w, default_w = power.forecast_w(exposure.load, clocks_mhz)
            self._spent_j += float(chosen_w) * exposure.duration_s
            self._default_j += float(default_w) * exposure.duration_s
