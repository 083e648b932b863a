"""The boards of one instance as a real driver holds them: their load, power and energy.

As `voltana.plant.board.SimulatedBoard`, but nobody knows at the start of an iteration which clock
it will run at: the agent decides while it runs, and with every change its end is found anew.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.plant.iteration import PlantModel
    from voltana.rehearsal.driver_view import DriverView
    from voltana.values import Load

_NS = 1e9


class LiveBoard:
    """Clock, power and energy of one instance, integrated up to `at_s`.

    Args:
        plant: Latency and power of a load at a clock.
        driver: The driver that holds their clock.
        now_s: The current time.
        pace: Seconds of that time in one of the wall's.

    Attributes:
        clock_mhz: Clock in force.
        at_s: See above.
        energy_j: Energy so far.
        changes: Changes of the clock so far.
    """

    def __init__(self, plant: PlantModel, driver: DriverView, *, now_s: float, pace: float) -> None:
        self.at_s = now_s
        self.energy_j = 0.0
        self.changes = 0
        self._plant = plant
        self._driver = driver
        self._pace = pace
        self._load: Load | None = None
        self._noise = 1.0
        self._left = 0.0  # share of the iteration that is still to be computed
        self._whole_s = math.inf
        self._clock_seconds = self._started_clock_s = self._started_s = 0.0
        self.clock_mhz = self._asked_mhz = driver.asked().clock_mhz
        self._due_s = math.inf
        self._take_up()

    @property
    def end_s(self) -> float:
        """When the iteration under way ends if no clock changes; inf while nothing runs."""
        return math.inf if self._load is None else self.at_s + self._left * self._whole_s

    def begin(self, load: Load, noise: float, now_s: float) -> None:
        """Start an iteration.

        Args:
            load: What it computes.
            noise: Factor on its latency.
            now_s: When.
        """
        self._advance(now_s)
        self._load, self._noise, self._left = load, noise, 1.0
        self._started_s, self._started_clock_s = self.at_s, self._clock_seconds
        self._take_up()

    def finish(self, now_s: float) -> float:
        """End the iteration; the mean clock that it ran at, in MHz."""
        self._advance(now_s)
        self._load = None
        seconds = self.at_s - self._started_s
        mean_mhz = (
            (self._clock_seconds - self._started_clock_s) / seconds if seconds else self.clock_mhz
        )
        self._take_up()
        return mean_mhz

    def follow(self, now_s: float) -> float:
        """Take up what the driver holds by now.

        Returns:
            When a clock that was set comes into force; inf if none is on its way.
        """
        asked = self._driver.asked()
        in_force_s = asked.in_force_ns / _NS * self._pace
        if asked.clock_mhz != self._asked_mhz or self._due_s < math.inf:
            self._asked_mhz, self._due_s = asked.clock_mhz, in_force_s
        if self._due_s > now_s:
            return self._due_s
        self._due_s = math.inf
        if self._asked_mhz != self.clock_mhz:
            self._advance(in_force_s)
            self.clock_mhz = self._asked_mhz
            self.changes += 1
            self._take_up()
        return math.inf

    def _take_up(self) -> None:
        """Draw what the load draws at the clock in force, and say so."""
        limited_mhz = 0.0
        if self._load is None:
            self._power_w, self._real_mhz = self._plant.idle_power_w(self.clock_mhz), self.clock_mhz
        else:
            latency_s, self._power_w, self._real_mhz = self._plant.iterate(
                self._load, self.clock_mhz
            )
            self._whole_s = latency_s * self._noise
            limited_mhz = self._real_mhz if self._real_mhz < self.clock_mhz else 0.0
        at_ns = int(self.at_s / self._pace * _NS)
        self._driver.say(at_ns, self.energy_j, self._power_w, limited_mhz)

    def _advance(self, to_s: float) -> None:
        seconds = to_s - self.at_s
        if seconds <= 0.0:
            return
        if self._load is not None:
            self._left = max(self._left - seconds / self._whole_s, 0.0)
        self.energy_j += self._power_w * seconds
        self._clock_seconds += self._real_mhz * seconds
        self.at_s = to_s
