"""Honest use of the daemon beside an attack: a control loop on a GPU of its own, and its times."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from voltana.values import Health

if TYPE_CHECKING:
    from tests.actuation.daemons import Daemon

STEP_S = 0.02
CLOCKS_MHZ = (1005.0, 1200.0, 900.0, 1410.0)
FLOOR_S = 0.1
"""A 99th percentile below this is that of a busy test machine, whatever the daemon does."""


class HonestLoop:
    """Steps at 50 Hz with another clock each time, and notes how long each takes to come about.

    Args:
        daemon: Where to connect.
        device: Its GPU.
        lease_s: Its lease.
    """

    def __init__(self, daemon: Daemon, device: int = 1, lease_s: float = 2.0) -> None:
        self._client = daemon.client(device, lease_s=lease_s)
        assert self._client.reach(CLOCKS_MHZ[0])
        self._taken_s: list[float] = []
        self.lost = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> HonestLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._client.actuator.close()

    def times_s(self, seconds: float) -> list[float]:
        """Times of the steps of the next so many seconds."""
        before = self.steps()
        time.sleep(seconds)
        return self.since(before)

    def steps(self) -> int:
        """Steps so far."""
        return len(self._taken_s)

    def since(self, steps: int) -> list[float]:
        """Times of the steps after so many."""
        return self._taken_s[steps:]

    def _run(self) -> None:
        actuator = self._client.actuator
        while not self._ending.is_set():
            for clock_mhz in CLOCKS_MHZ:
                started_s = time.monotonic()
                self._client.set(clock_mhz)
                status = actuator.status()
                while status.sequence < self._client.steps - 1 and not self._ending.is_set():
                    if status.health is not Health.OK or time.monotonic() > started_s + 2.0:
                        self.lost += 1
                        break
                    time.sleep(0.001)
                    status = actuator.status()
                self._taken_s.append(time.monotonic() - started_s)
                time.sleep(STEP_S)


def p99(times_s: list[float]) -> float:
    """Their 99th percentile; infinite if there is none."""
    ordered = sorted(times_s)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else math.inf


def assert_unharmed(honest: HonestLoop, quiet_s: list[float], attacked_s: list[float]) -> None:
    """No step was lost, and the slowest are no slower than twice what they were."""
    assert honest.lost == 0
    assert len(attacked_s) > 2
    assert p99(attacked_s) <= max(2.0 * p99(quiet_s), FLOOR_S)
