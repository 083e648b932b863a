"""A board that can only be read, and what was read of it while something ran.

Nothing in this benchmark holds a driver's GPU itself: `ReadOnlyGpu` has no method that sets a
clock or a limit, so none can be called by mistake.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana_actuatord.faults import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from voltana_actuatord.drivers.port import Gpu

PERIOD_S = 0.05


class ReadOnlyGpu:
    """The reading half of a `voltana_actuatord.drivers.port.Gpu`.

    Args:
        gpu: The GPU of an open driver.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.uuid = gpu.uuid
        self.name = gpu.name
        self.clock_mhz = gpu.clock_mhz
        self.power_w = gpu.power_w
        self.energy_j = gpu.energy_j
        self._clocks_mhz = gpu.clocks_mhz
        self._event_reasons = gpu.event_reasons
        self._keeps_settings = gpu.keeps_settings
        self._power_limit_w = gpu.power_limit_w
        self._power_range = gpu.power_range

    def readings(self) -> dict[str, Callable[[], Any]]:
        """Everything that can be read while a board works, by name."""
        return {
            "clock": self.clock_mhz,
            "power": self.power_w,
            "energy": self.energy_j,
            "event reasons": self._event_reasons,
        }

    def facts(self) -> dict[str, Any]:
        """What the board is and may do; what it does not tell is null."""
        clocks = _or_none(self._clocks_mhz)
        limits = _or_none(self._power_range)
        return {
            "name": self.name(),
            "clocks_mhz": [clocks[0], clocks[-1]] if clocks else None,
            "levels": len(clocks) if clocks else None,
            "reasons": sorted(_or_none(self._event_reasons) or ()),
            "persistence": _or_none(self._keeps_settings),
            "power_limit_w": _or_none(self._power_limit_w),
            "power_range_w": [limits.min_w, limits.max_w] if limits else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the boards of an instance did in a stretch of time.

    Attributes:
        seconds: How long it was.
        clock_mhz: Mean SM clock.
        sensor_w: Mean of the power readings, all boards together.
        counter_w: Rise of the energy counters over the time; nan where there is none.
        samples: How many readings.
    """

    seconds: float
    clock_mhz: float
    sensor_w: float
    counter_w: float
    samples: int

    def figures(self) -> dict[str, float | int]:
        """For the JSON file."""
        return {
            "seconds": round(self.seconds, 3),
            "clock_mhz": round(self.clock_mhz, 1),
            "sensor_w": round(self.sensor_w, 2),
            "counter_w": round(self.counter_w, 2),
            "samples": self.samples,
        }


@dataclass(slots=True)
class Sampler:
    """Reads boards from a thread of its own; a context manager.

    Attributes:
        gpus: What to read.
        period_s: Time between two readings.
        now: Reads the host's monotonic clock.
    """

    gpus: tuple[ReadOnlyGpu, ...]
    period_s: float = PERIOD_S
    now: Callable[[], float] = time.monotonic
    _rows: list[tuple[float, float, float, float]] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            self._rows.append(self._read())
            if self._ending.wait(self.period_s):
                break
        self._rows.append(self._read())

    def _read(self) -> tuple[float, float, float, float]:
        at_s, nan = self.now(), float("nan")
        clock = [_or_none(gpu.clock_mhz) for gpu in self.gpus]
        power = [_or_none(gpu.power_w) for gpu in self.gpus]
        energy = [_or_none(gpu.energy_j) for gpu in self.gpus]
        return (
            at_s,
            nan if None in clock else float(np.mean(clock)),  # type: ignore[arg-type]
            nan if None in power else float(sum(power)),  # type: ignore[arg-type]
            nan if None in energy else float(sum(energy)),  # type: ignore[arg-type]
        )

    def save(self, path: Path) -> None:
        """Keep every reading: seconds since the first, MHz, watts and joules of the counter."""
        rows = np.array(self._rows)
        rows[:, 0] -= rows[0, 0]
        np.savez_compressed(path, rows=rows)

    def clock_at(self, at_s: Sequence[float]) -> Any:
        """The SM clock (MHz) at some times of the host's monotonic clock, between two readings."""
        rows = np.array(self._rows)
        return np.interp(at_s, rows[:, 0], rows[:, 1])

    def reading(self) -> Reading:
        """Everything that was read."""
        rows = np.array(self._rows)
        seconds = float(rows[-1, 0] - rows[0, 0])
        risen_j = float(rows[-1, 3] - rows[0, 3])
        return Reading(
            seconds=seconds,
            clock_mhz=float(np.nanmean(rows[:, 1])) if np.isfinite(rows[:, 1]).any() else np.nan,
            sensor_w=float(np.nanmean(rows[:, 2])) if np.isfinite(rows[:, 2]).any() else np.nan,
            counter_w=risen_j / seconds if seconds else np.nan,
            samples=len(rows),
        )


def _or_none(read: Callable[[], Any]) -> Any:
    """What a call of the driver returns; None where the board cannot tell."""
    try:
        return read()
    except DriverError:
        return None
