"""What the devices really do: readings now, and the mean clock of an iteration that has ended."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from voltana.errors import VoltanaError
from voltana.ports import Sensor
from voltana.values import Reading
from voltana_actuatord.timebase import wall_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import TimeSource
    from voltana.values import ActuatorStatus

PERIOD_S = 0.02
"""Between two samples of a device: a clock settles in about as much."""

_KEPT = 512


class HeldSensor(Sensor, Protocol):
    """A sensor that holds a device."""

    def close(self) -> None:
        """Let the device go; may be called twice."""
        ...


class ClockHistory:
    """Clocks over the last while; each holds until the next sample."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, at_s: float, clock_mhz: float) -> None:
        """Note a sample; unknown clocks and repetitions are dropped."""
        if 0 < clock_mhz < math.inf and (not self._samples or self._samples[-1][1] != clock_mhz):
            self._samples.append((at_s, clock_mhz))

    def lose(self, at_s: float) -> None:
        """Note that the clock is not known from now on: the last one does not hold for ever."""
        if self._samples and not math.isnan(self._samples[-1][1]):
            self._samples.append((at_s, math.nan))

    def mean_mhz(self, begin_s: float, end_s: float) -> float:
        """Mean clock of an interval; nan where nothing is known of it."""
        weighted, until_s = 0.0, end_s
        first_mhz = math.nan
        for at_s, clock_mhz in reversed(tuple(self._samples)):
            if at_s >= until_s:
                first_mhz = clock_mhz
                continue
            since_s = max(at_s, begin_s)
            weighted += clock_mhz * (until_s - since_s)
            until_s = since_s
            if at_s <= begin_s:
                break
        covered_s = end_s - until_s
        return weighted / covered_s if covered_s > 0 else first_mhz


class SampledSensor:
    """Samples a device in a thread of its own, for its driver's calls take time.

    Args:
        sensor: The device.
        time: Source of time.
        period_s: Between two samples.

    Raises:
        DriverError: If the first reading fails.
    """

    def __init__(self, sensor: HeldSensor, time: TimeSource, *, period_s: float = PERIOD_S) -> None:
        self._sensor = sensor
        self._time = time
        self._period_s = wall_s(period_s)
        self.history = ClockHistory()
        self._latest = sensor.read()
        self.history.add(self._latest.at_s, self._latest.clock_mhz)
        self._ending = threading.Event()
        self._log = structlog.get_logger("voltana.serving.sensing")
        self._thread = threading.Thread(target=self._sample, name="sensor", daemon=True)
        self._thread.start()

    def read(self) -> Reading:
        """The latest sample."""
        return self._latest

    def close(self) -> None:
        """Stop sampling."""
        self._ending.set()
        self._thread.join(1.0)
        self._sensor.close()

    def _sample(self) -> None:
        failed = False
        while not self._ending.wait(self._period_s):
            try:
                reading = self._sensor.read()
            except VoltanaError as error:
                if not failed:
                    self._log.warning("the device cannot be read", error=str(error))
                failed = True
                # A clock that is not known promises nothing.
                nan = math.nan
                self._latest = Reading(
                    at_s=self._time.now_s(), clock_mhz=nan, power_w=nan, energy_j=nan
                )
                self.history.lose(self._latest.at_s)
                continue
            failed = False
            self._latest = reading
            if 0 < reading.clock_mhz < math.inf:
                self.history.add(reading.at_s, reading.clock_mhz)
            else:
                self.history.lose(reading.at_s)


class EchoSensor:
    """Where no device can be read: the clock that the actuator says is in force.

    Args:
        status: Asks the actuator.
        default_mhz: Clock while it does not know one: what the device runs at by itself.
        time: Source of time.
    """

    def __init__(
        self, status: Callable[[], ActuatorStatus], default_mhz: float, time: TimeSource
    ) -> None:
        self._status = status
        self._default_mhz = default_mhz
        self._time = time
        self.history = ClockHistory()

    def read(self) -> Reading:
        """The clock alone; power and energy are not known."""
        now_s = self._time.now_s()
        clock_mhz = self._status().clock_mhz
        if not clock_mhz > 0:
            clock_mhz = self._default_mhz
        self.history.add(now_s, clock_mhz)
        return Reading(at_s=now_s, clock_mhz=clock_mhz, power_w=math.nan, energy_j=math.nan)

    def close(self) -> None:
        """Nothing is held."""
