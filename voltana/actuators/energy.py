"""Energy of an instance over windows, from the board's counter, cross-checked with its power.

The counter is what is billed: it misses nothing, but it ticks every 10-100 ms, so that a window
must be long against a tick. Power readings are averages that some boards sample a quarter of the
time; integrated over a window they tell whether the counter can be believed, and stand in for it
where there is none. Every figure says which of the two it comes from.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.ports import Sensor

MIN_WINDOW_S = 1.0
MAX_GAP_S = 0.5
TOLERANCE = 0.15


class EnergySource(enum.StrEnum):
    """Where a figure comes from."""

    COUNTER = "energy counter"
    POWER = "integrated power"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """Energy of one window.

    Attributes:
        started_s: When it began.
        duration_s: How long it was.
        energy_j: Its energy.
        source: Where `energy_j` comes from.
        counter_j: What the counter says; nan where it cannot be read.
        integrated_j: Power integrated by the trapezoidal rule; nan where it was sampled too
            seldom.
        agree: Whether the two lie within the tolerance of each other; None if one is missing.
    """

    started_s: float
    duration_s: float
    energy_j: float
    source: EnergySource
    counter_j: float
    integrated_j: float
    agree: bool | None

    @property
    def mean_w(self) -> float:
        """Mean power over the window."""
        return self.energy_j / self.duration_s


class EnergyMeter:
    """Cuts the readings of a sensor into windows.

    Args:
        sensor: Read at every `sample`; all devices of the instance.
        window_s: Shortest window; a second or more, since the counter ticks.
        tolerance: Relative difference up to which counter and power agree.

    Raises:
        ConfigError: If the window is shorter than the counter allows.
    """

    def __init__(
        self, sensor: Sensor, *, window_s: float = 10.0, tolerance: float = TOLERANCE
    ) -> None:
        if not window_s >= MIN_WINDOW_S:
            raise invalid(
                "window_s",
                window_s,
                f"at least {MIN_WINDOW_S:g} s",
                "The energy counter ticks every 10-100 ms; take a longer window.",
            )
        self._sensor = sensor
        self._window_s = window_s
        self._tolerance = tolerance
        first = sensor.read()
        self._start = self._last = first
        self._integrated_j = 0.0
        self.total_j = 0.0

    def sample(self) -> EnergyWindow | None:
        """Take a reading, ten times a second or so; the finished window if this one ends it.

        Mutates the meter; `total_j` grows by every window.
        """
        reading = self._sensor.read()
        elapsed_s = reading.at_s - self._last.at_s
        mean_w = (reading.power_w + self._last.power_w) / 2
        self._integrated_j += mean_w * elapsed_s if elapsed_s <= MAX_GAP_S else math.nan
        self._last = reading
        if reading.at_s - self._start.at_s < self._window_s:
            return None
        window = self._close()
        self.total_j += window.energy_j
        self._start = reading
        self._integrated_j = 0.0
        return window

    def _close(self) -> EnergyWindow:
        counter_j = self._last.energy_j - self._start.energy_j
        if counter_j < 0:  # the driver was loaded anew and counts from zero
            counter_j = math.nan
        integrated_j = self._integrated_j
        has_counter, has_power = not math.isnan(counter_j), not math.isnan(integrated_j)
        agree = None
        if has_counter and has_power:
            larger = max(abs(counter_j), abs(integrated_j))
            agree = abs(counter_j - integrated_j) <= self._tolerance * larger
        return EnergyWindow(
            started_s=self._start.at_s,
            duration_s=self._last.at_s - self._start.at_s,
            energy_j=counter_j if has_counter else integrated_j,
            source=EnergySource.COUNTER if has_counter else EnergySource.POWER,
            counter_j=counter_j,
            integrated_j=integrated_j,
            agree=agree,
        )
