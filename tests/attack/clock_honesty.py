"""Honest use of the daemon beside an attack: a control loop on a GPU of its own, and its times.

Time in which the loop's own thread, the worker or the GPU's process could have run and was given no
core is taken off (`own_time.py`).

Quiet times and times of attack take turns, since other programs come and go on a test machine; what
is held against each other are all the quiet steps and all the attacked ones. In a quiet time the
attackers' processes compute: the cores that they take from the honest one's own process are the
kernel's to share out, and no doing of the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import mmap
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from tests.attack import own_time
from voltana.values import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.actuation.daemons import Daemon

STEP_S = 0.005
CLOCKS_MHZ = (1005.0, 1200.0, 900.0, 1410.0)
FLOOR_S = 0.1
"""A 99th percentile below this is that of a busy test machine, whatever the daemon does."""

WINDOW_S = 0.3
LEAST_PAIRS, MOST_PAIRS = 6, 40
"""How many times quiet and attack take turns; more than the least only while there is a doubt."""


class HonestLoop:
    """Steps with another clock each time, and notes how long each takes to come about.

    Args:
        daemon: Where to connect.
        device: Its GPU.
        lease_s: Its lease.
    """

    def __init__(self, daemon: Daemon, device: int = 1, lease_s: float = 2.0) -> None:
        before = set(daemon.holders())
        self._client = daemon.client(device, lease_s=lease_s)
        self._pids = {daemon.worker(), *set(daemon.holders()) - before}
        assert self._client.reach(CLOCKS_MHZ[0])
        self._taken_s: list[float] = []
        self._log = daemon.log
        self._reasons: list[str] = []
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

    def why(self) -> str:
        """Why steps were lost, and the last that the daemon said."""
        said = self._log.read_text().splitlines()[-20:]
        return "\n".join([*self._reasons[:5], *said])

    def _run(self) -> None:
        actuator = self._client.actuator
        waiting = [own_time.Waiting(os.getpid(), threading.get_native_id())]
        waiting += map(own_time.Waiting, self._pids)
        while not self._ending.is_set():
            for clock_mhz in CLOCKS_MHZ:
                started_s, began = time.monotonic(), own_time.moment(*waiting)
                self._client.set(clock_mhz)
                status = actuator.status()
                while status.sequence < self._client.steps - 1 and not self._ending.is_set():
                    waited_s = time.monotonic() - started_s
                    if status.health is not Health.OK or waited_s > 2.0:
                        self.lost += 1
                        self._reasons.append(f"after {waited_s:.3f} s: {status}")
                        break
                    time.sleep(0.001)
                    status = actuator.status()
                ended = own_time.moment(*waiting)
                self._taken_s.append(own_time.without_waiting_s(began, ended))
                time.sleep(STEP_S)


def p99(times_s: list[float]) -> float:
    """Their 99th percentile; infinite if there is none."""
    ordered = sorted(times_s)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else math.inf


class Attacker:
    """An attack in a process of its own, which goes on while it is told to.

    Args:
        attack: Attacks for a moment; called again and again.
        uid: The user it is; None is this one.
    """

    def __init__(self, attack: Callable[[], None], uid: int | None = None) -> None:
        self._going = mmap.mmap(-1, mmap.PAGESIZE)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                if uid is not None:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                self._attack(attack)
            finally:
                os._exit(1)

    def _attack(self, attack: Callable[[], None]) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            if self._going[0]:
                with contextlib.suppress(OSError):
                    attack()
            else:
                sum(range(1000))

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """Attack meanwhile."""
        self._going[0] = 1
        try:
            yield
        finally:
            self._going[0] = 0

    def end(self) -> None:
        """End the process."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._going.close()


def assert_stands(
    honest: HonestLoop, *attackers: Attacker, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """No step is lost, and the 99th percentile beside attacks is within twice the quiet one.

    Args:
        honest: Steps on.
        attackers: They attack in every second window.
        meanwhile: Called in each window of attack.
    """

    async def quiet() -> list[float]:
        return honest.times_s(WINDOW_S)

    async def attacked() -> list[float]:
        with contextlib.ExitStack() as stack:
            for attacker in attackers:
                stack.enter_context(attacker.going())
            before = honest.steps()
            time.sleep(WINDOW_S)
            meanwhile()
            taken_s = honest.since(before)
        honest.times_s(WINDOW_S)  # a step that began beside the attack is no quiet one
        return taken_s

    def check() -> None:
        assert honest.lost == 0, honest.why()

    try:
        asyncio.run(own_time.stands(quiet, attacked, turns=(LEAST_PAIRS, MOST_PAIRS), check=check))
    finally:
        for attacker in attackers:
            attacker.end()


def assert_unharmed(honest: HonestLoop, quiet_s: list[float], attacked_s: list[float]) -> None:
    """No step was lost, and the slowest are no slower than twice what they were."""
    assert honest.lost == 0, honest.why()
    assert len(attacked_s) > 2
    assert p99(attacked_s) <= max(2.0 * p99(quiet_s), FLOOR_S)
