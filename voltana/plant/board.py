"""The boards of one instance: their clock, power and energy as they develop in time.

A clock command passes through a call (milliseconds) and then settles; until then the old clock is
in force. An iteration during which the clock changes is computed piece by piece. The energy counter
is exact but moves only at its ticks, as the real one does.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.plant.iteration import PlantModel
    from voltana.plant.noise import LognormalNoise
    from voltana.values import Load


class SimulatedBoard:
    """Clock, power and energy of one instance, integrated up to `at_s`.

    Args:
        plant: Latency and power of a load at a clock.
        clock_mhz: Clock at the start.
        call_noise: Draws the factor on the call's median latency.
        call_s: Median latency of the driver's call.
        settle_s: Time from the end of the call until the clock is in force.
        energy_tick_s: Period at which the energy counter moves.
    """

    __slots__ = (
        "_call_noise",
        "_call_s",
        "_idle_w",
        "_pending",
        "_settle_s",
        "_tick_s",
        "at_s",
        "changes",
        "clock_mhz",
        "clock_seconds",
        "counter_j",
        "energy_j",
        "plant",
        "power_w",
        "target_mhz",
    )

    def __init__(
        self,
        plant: PlantModel,
        *,
        clock_mhz: float,
        call_noise: LognormalNoise,
        call_s: float,
        settle_s: float,
        energy_tick_s: float,
    ) -> None:
        self.plant = plant
        self.clock_mhz = clock_mhz
        self.target_mhz = clock_mhz
        self.at_s = 0.0
        self.energy_j = 0.0
        self.counter_j = 0.0
        self._idle_w = plant.idle_power_w(clock_mhz)
        self.power_w = self._idle_w
        self.clock_seconds = 0.0
        self.changes = 0
        self._call_noise = call_noise
        self._call_s = call_s
        self._settle_s = settle_s
        self._tick_s = energy_tick_s
        self._pending: deque[tuple[float, float, float]] = deque()

    def request(self, now_s: float, clock_mhz: float) -> None:
        """Ask for a clock. A command whose call has not ended yet is replaced, not queued."""
        if clock_mhz == self.target_mhz:
            return
        pending = self._pending
        while pending and pending[-1][0] > now_s:
            pending.pop()
        called_s = now_s + self._call_s * self._call_noise.draw()
        effective_s = called_s + self._settle_s
        if pending:
            effective_s = max(effective_s, pending[-1][1])
        pending.append((called_s, effective_s, clock_mhz))
        self.target_mhz = clock_mhz
        self.changes += 1

    def idle_until(self, now_s: float) -> None:
        """Integrate an idle stretch up to `now_s`; nothing happens if that is not ahead."""
        pending = self._pending
        while pending and pending[0][1] <= now_s:
            effective_s, clock_mhz = pending.popleft()[1:]
            if effective_s > self.at_s:
                self._advance(effective_s, self._idle_w, self.clock_mhz)
            self._change(clock_mhz)
        if now_s > self.at_s:
            self._advance(now_s, self._idle_w, self.clock_mhz)

    def run(self, load: Load, noise: float) -> float:
        """Run an iteration that starts at `at_s`, which moves to its end.

        Args:
            load: What it computes.
            noise: Factor on the latency.

        Returns:
            Mean clock achieved, in MHz.
        """
        pending, start_s = self._pending, self.at_s
        latency_s, power_w, real_mhz = self.plant.iterate(load, self.clock_mhz)
        end_s = start_s + latency_s * noise
        if not pending or pending[0][1] >= end_s:
            self._advance(end_s, power_w, real_mhz)
            return real_mhz
        return self._run_through_changes(load, noise)

    def _run_through_changes(self, load: Load, noise: float) -> float:
        pending, start_s, start_clock_s = self._pending, self.at_s, self.clock_seconds
        remaining = 1.0
        while True:
            latency_s, power_w, real_mhz = self.plant.iterate(load, self.clock_mhz)
            whole_s = latency_s * noise
            end_s = self.at_s + whole_s * remaining
            if not pending or pending[0][1] >= end_s:
                self._advance(end_s, power_w, real_mhz)
                return (self.clock_seconds - start_clock_s) / (end_s - start_s)
            effective_s, clock_mhz = pending.popleft()[1:]
            if effective_s > self.at_s:
                remaining -= (effective_s - self.at_s) / whole_s
                self._advance(effective_s, power_w, real_mhz)
            self._change(clock_mhz)

    def _change(self, clock_mhz: float) -> None:
        self.clock_mhz = clock_mhz
        self._idle_w = self.plant.idle_power_w(clock_mhz)

    def _advance(self, to_s: float, power_w: float, clock_mhz: float) -> None:
        at_s = self.at_s
        seconds = to_s - at_s
        tick_s = math.floor(to_s / self._tick_s) * self._tick_s
        if tick_s > at_s:
            self.counter_j = self.energy_j + power_w * (tick_s - at_s)
        self.energy_j += power_w * seconds
        self.clock_seconds += clock_mhz * seconds
        self.power_w = power_w
        self.at_s = to_s
