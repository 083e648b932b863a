"""What ran on an instance since its energy was read last: what a power model learns from."""

from __future__ import annotations

from voltana.values import Exposure, Load
from voltana_actuatord.quick import maker

make_exposure = maker(Exposure)


IDLE = Load()


class Exposures:
    """Busy and idle stretches that fill the time without a gap.

    Args:
        start_s: Time from which on they do.

    Attributes:
        seconds: Time that they cover since they were taken last.
        covered_to_s: Time up to which they do.
    """

    __slots__ = ("_stretches", "covered_to_s", "seconds")

    def __init__(self, start_s: float = 0.0) -> None:
        self._stretches: list[Exposure] = []
        self.covered_to_s = start_s
        self.seconds = 0.0

    def idle_until(self, now_s: float, clock_mhz: float) -> None:
        """Add the idle stretch that ends now, if there was one, at its mean clock."""
        idle_s = now_s - self.covered_to_s
        if idle_s > 0:
            self.add(IDLE, clock_mhz, idle_s)

    def add(self, load: Load, clock_mhz: float, duration_s: float) -> None:
        """Add `duration_s` of `load` at a mean clock."""
        self._stretches.append(make_exposure(load=load, clock_mhz=clock_mhz, duration_s=duration_s))
        self.covered_to_s += duration_s
        self.seconds += duration_s

    def take(self) -> tuple[Exposure, ...]:
        """The stretches of the window that ends now; the next one begins."""
        taken, self._stretches = tuple(self._stretches), []
        self.seconds = 0.0
        return taken


class CountedExposures:
    """Exposures, and the energy that a counter says they took.

    Args:
        counter_j: The energy counter at the start.
        start_s: Time at the start.
    """

    __slots__ = ("_counter_j", "exposures")

    def __init__(self, counter_j: float, start_s: float = 0.0) -> None:
        self._counter_j = counter_j
        self.exposures = Exposures(start_s)

    def close(self, counter_j: float) -> tuple[float, tuple[Exposure, ...]]:
        """Energy and exposures of the window; the next one begins."""
        energy_j = counter_j - self._counter_j
        self._counter_j = counter_j
        return energy_j, self.exposures.take()
