"""Energy of an instance over windows, from the board's counter, cross-checked with its power.

The counter is what is billed: it misses nothing, but it ticks every 10-100 ms, so that a window
must be long against a tick. Power readings are averages that some boards sample a quarter of the
time; integrated over a window they tell whether the counter can be believed, and stand in for it
where there is none, where it starts again, where it stands still, and where it counts more than
the GPU (that of a GH200's module counts its CPU and memory, too). A counter that says less than the
power is believed: it misses nothing, while readings come between the peaks of a load. Every figure
says which of the two it comes from, and how many seconds neither of them knows: no sum has them.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.ports import Sensor
    from voltana.values import Reading

MIN_WINDOW_S = 1.0
MAX_GAP_S = 0.5
TOLERANCE = 0.15
AWAITED_S = 0.25
"""How long after its last tick a counter is awaited for a window to end: longer than it is left
unread."""

IMPOSSIBLE = 2.0
"""So many times the highest power ever read, no board draws over a whole window."""


class EnergySource(enum.StrEnum):
    """Where a figure comes from."""

    COUNTER = "energy counter"
    POWER = "integrated power"
    NONE = "nothing that could be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """Energy of one window.

    Attributes:
        started_s: When it began.
        duration_s: How long it was.
        energy_j: Its energy; nan where part of it is not known.
        source: Where `measured_j` comes from.
        measured_j: Energy of the seconds that are known: all but `gap_s`. Never nan.
        gap_s: Seconds of the window of which nothing is known.
        counter_j: What the counter says; nan where it cannot be read or starts again.
        integrated_j: Power integrated by the trapezoidal rule; nan where it was sampled too
            seldom.
        agree: Whether the two lie within the tolerance of each other; None if one is missing.
    """

    started_s: float
    duration_s: float
    energy_j: float
    source: EnergySource
    measured_j: float
    gap_s: float
    counter_j: float
    integrated_j: float
    agree: bool | None

    @property
    def mean_w(self) -> float:
        """Mean power over the window; nan where part of it is not known."""
        return self.energy_j / self.duration_s


@dataclass(slots=True)
class _Part:
    """What one source knows of a window: so much energy in so many seconds."""

    energy_j: float = 0.0
    covered_s: float = 0.0

    def add(self, energy_j: float, seconds: float) -> None:
        self.energy_j += energy_j
        self.covered_s += seconds

    def covers(self, duration_s: float) -> bool:
        return self.covered_s >= duration_s - 1e-6 * max(duration_s, 1.0)

    def whole_j(self, duration_s: float) -> float:
        return self.energy_j if self.covers(duration_s) else math.nan


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
        self._highest_w = 0.0
        self._too_much = False
        self._source = EnergySource.NONE
        self._still_s = 0.0
        self.total_j = self.gap_s = 0.0
        self._start = self._last = sensor.read()
        self._begin(self._last)

    @property
    def source(self) -> EnergySource:
        """Where the last window's energy came from."""
        return self._source

    def sample(self) -> EnergyWindow | None:
        """Take a reading, ten times a second or so; the finished window if this one ends it.

        Mutates the meter; `total_j` grows by what is known of every window, `gap_s` by the seconds
        that are not.
        """
        reading = self._sensor.read()
        ticked = reading.energy_j != self._last.energy_j
        self._count(reading)
        self._integrate(reading)
        self._last = reading
        if reading.at_s - self._start.at_s < self._window_s:
            return None
        # Between two ticks nobody knows which part of the next one belongs to this window.
        if not ticked and self._still_s < AWAITED_S:
            return None
        window = self._close()
        self.total_j += window.measured_j
        self.gap_s += window.gap_s
        self._source = window.source
        self._begin(reading)
        return window

    def _begin(self, reading: Reading) -> None:
        self._start = self._last = reading
        self._counted = reading if math.isfinite(reading.energy_j) else None
        self._counter, self._power = _Part(), _Part()

    def _count(self, reading: Reading) -> None:
        """Add what the counter says; readings that failed between two others cost nothing."""
        if not math.isfinite(reading.energy_j):
            return
        before, self._counted = self._counted, reading
        if before is None:
            return
        counted_j, elapsed_s = reading.energy_j - before.energy_j, reading.at_s - before.at_s
        still_s = self._still_s
        self._still_s = still_s + elapsed_s if counted_j == 0 else 0.0
        if counted_j < 0:  # it began anew
            return
        if self._still_s > MAX_GAP_S:  # far longer than a tick: none of it was counted
            if still_s <= MAX_GAP_S:
                inside_s = self._last.at_s - self._start.at_s
                self._counter.add(0.0, -min(still_s, inside_s))
        elif still_s <= MAX_GAP_S:  # else its first step afterwards is of nobody knows how long
            self._counter.add(counted_j, elapsed_s)

    def _integrate(self, reading: Reading) -> None:
        elapsed_s = reading.at_s - self._last.at_s
        mean_w = (reading.power_w + self._last.power_w) / 2
        if math.isfinite(reading.power_w):
            self._highest_w = max(self._highest_w, reading.power_w)
        known = min(reading.power_w, self._last.power_w) >= 0 and math.isfinite(mean_w)
        if known and elapsed_s <= MAX_GAP_S:
            self._power.add(mean_w * elapsed_s, elapsed_s)

    def _close(self) -> EnergyWindow:
        duration_s = self._last.at_s - self._start.at_s
        counter_j, integrated_j = (p.whole_j(duration_s) for p in (self._counter, self._power))
        agree = None
        if math.isfinite(counter_j) and math.isfinite(integrated_j):
            larger = max(abs(counter_j), abs(integrated_j))
            agree = abs(counter_j - integrated_j) <= self._tolerance * larger
        known = [(EnergySource.POWER, self._power)]
        if self._believes_counter(duration_s):
            known.insert(0, (EnergySource.COUNTER, self._counter))
        source, part = max(known, key=lambda named: named[1].covered_s)
        return EnergyWindow(
            started_s=self._start.at_s,
            duration_s=duration_s,
            energy_j=part.whole_j(duration_s),
            source=source if part.covered_s > 0 else EnergySource.NONE,
            measured_j=part.energy_j,
            gap_s=0.0 if part.covers(duration_s) else duration_s - part.covered_s,
            counter_j=counter_j,
            integrated_j=integrated_j,
            agree=agree,
        )

    def _believes_counter(self, duration_s: float) -> bool:
        """Whether the counter counts the GPU: not more than it draws, and not nothing.

        Where power is known of too little of the window, what the last comparison said holds.
        """
        counter, power = self._counter, self._power
        if counter.covered_s <= 0:
            return False
        counted_w = counter.energy_j / counter.covered_s
        if power.covered_s >= duration_s / 2:
            drawn_w = power.energy_j / power.covered_s
            self._too_much = counted_w > drawn_w * (1.0 + self._tolerance)
            stands_still = counted_w == 0.0 < drawn_w
            return not (self._too_much or stands_still)
        if 0.0 < IMPOSSIBLE * self._highest_w < counted_w:
            return False
        return not self._too_much
