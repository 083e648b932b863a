"""One thread a GPU that makes driver calls: the latest wish wins, and nothing is ever queued.

State-changing calls take milliseconds and a sick driver may never return, so they happen here and
not where messages are read. Whoever made the channel can see for how long a call has been in the
driver (`busy_s`) and is told what came of every wish.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from voltana_actuatord.daemon.restore import restore_gpu
from voltana_actuatord.faults import (
    SLOWING,
    DriverError,
    PermissionDeniedError,
    retry_transient,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.restore import Settable

_T = TypeVar("_T")

SETTLE_LIMIT_S = 0.25
WATCH_S = 1.0
MAX_BACKOFF_S = 1.0
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """A clock, or the default clocks.

    Attributes:
        clock_mhz: The clock; None for the default ones.
        ticket: Handed back with the result.
    """

    clock_mhz: float | None
    ticket: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a wish.

    Attributes:
        device: Index of the GPU.
        wish: The wish.
        clock_mhz: Clock read back after settling.
        explained: Whether a clock other than the one wished for has a reason of its own.
        note: That reason, or why the wish failed.
        failed: Whether the wish came to nothing; the GPU may then be in any state.
    """

    device: int
    wish: Wish
    clock_mhz: float = float("nan")
    explained: bool = True
    note: str = ""
    failed: bool = False


class GpuChannel:
    """Drives one GPU from a thread of its own.

    Args:
        gpu: The GPU.
        journal: Marked before the first lock, cleared after a reset; None keeps no journal.
        report: Called from the thread with every result.
    """

    def __init__(
        self, gpu: Settable, journal: Journal | None, report: Callable[[Result], None]
    ) -> None:
        self.index = gpu.index
        self.uuid = gpu.uuid()
        self.clocks_mhz = gpu.clocks_mhz()
        steps = [b - a for a, b in itertools.pairwise(self.clocks_mhz)]
        self._step_mhz = max(steps, default=1.0)
        self._gpu = gpu
        self._journal = journal
        self._report = report
        self._wish = Wish(None)
        self._woken = False
        self._stopped = False
        self._token = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._busy_since = 0.0
        self._locked_mhz: float | None = None
        self._had_setting = False
        marked = journal is not None and self.uuid in journal.marked()
        self._at_default = not marked
        self._thread = threading.Thread(target=self._run, name=f"gpu-{self.index}", daemon=True)
        self._thread.start()
        if marked:
            self.ask(Wish(None))

    @property
    def at_default(self) -> bool:
        """Whether the GPU is at its default clocks and no wish is under way."""
        return self._at_default and self._wish.clock_mhz is None

    def busy_s(self, now_s: float) -> float:
        """For how long the present driver call has been running; 0 if there is none.

        A thread that ended unasked will never finish anything: inf.
        """
        if not (self._thread.is_alive() or self._stopped):
            return math.inf
        since = self._busy_since
        return now_s - since if since else 0.0

    def ask(self, wish: Wish) -> None:
        """Replace the wish. Returns at once."""
        self._wish = wish
        if wish.clock_mhz is not None:
            self._at_default = False
        if not self._woken:
            self._woken = True
            self._wake.put(None)

    def stop(self) -> None:
        """End the thread after the call that it is in; changes no clock."""
        self._stopped = True
        self._wake.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            if not self._pause(WATCH_S if self._locked_mhz is not None else None):
                self._watch()
                continue
            if self._stopped:
                return
            self._token = self._woken = False
            wish = self._wish
            if wish.clock_mhz is None:
                self._restore(wish)
            else:
                self._set(wish, wish.clock_mhz)

    def _pause(self, seconds: float | None) -> bool:
        """Wait for a newer wish, `seconds` at most; whether there is one to look at."""
        if not self._token:
            try:
                self._wake.get(timeout=seconds)
            except queue.Empty:
                return False
            self._token = True
        return True

    def _set(self, wish: Wish, clock_mhz: float) -> None:
        self._at_default = False
        try:
            self._mark()
            achieved_mhz = self._lock(wish, clock_mhz)
        except (DriverError, OSError) as error:
            self._report(Result(device=self.index, wish=wish, note=str(error), failed=True))
            return
        if achieved_mhz is not None:
            text = (
                f"GPU {self.index} runs at {achieved_mhz:g} MHz although {clock_mhz:g} MHz was set "
                f"{ATTEMPTS} times and no event reason explains it."
            )
            self._report(Result(device=self.index, wish=wish, note=text, failed=True))

    def _lock(self, wish: Wish, clock_mhz: float) -> float | None:
        """Lock, and report what was achieved; the clock that runs if it never came about."""
        achieved_mhz = math.nan
        for _ in range(ATTEMPTS):
            self._driver(lambda: self._gpu.lock(clock_mhz, clock_mhz))
            self._locked_mhz = clock_mhz
            result = self._settle(wish, clock_mhz)
            if result is None:
                return None
            if result.explained:
                self._report(result)
                return None
            achieved_mhz = result.clock_mhz
        return achieved_mhz

    def _settle(self, wish: Wish, clock_mhz: float) -> Result | None:
        """Wait until the clock is there; None as soon as a newer wish has come."""
        pause_s, ends_s = 0.0005, time.monotonic() + SETTLE_LIMIT_S
        while True:
            achieved_mhz = self._driver(self._gpu.in_force_mhz)
            if self._near(achieved_mhz, clock_mhz):
                return Result(device=self.index, wish=wish, clock_mhz=achieved_mhz)
            if time.monotonic() > ends_s:
                if self._near(achieved_mhz, clock_mhz, self._step_mhz):
                    return Result(device=self.index, wish=wish, clock_mhz=achieved_mhz)
                reasons = sorted(self._driver(self._gpu.event_reasons) & SLOWING)
                return Result(
                    device=self.index,
                    wish=wish,
                    clock_mhz=achieved_mhz,
                    explained=bool(reasons),
                    note=", ".join(reasons),
                )
            if self._pause(pause_s):
                return None
            pause_s = min(2 * pause_s, 0.01)

    def _watch(self) -> None:
        """Set the clock again if it has vanished, as it may without persistence mode."""
        locked_mhz, wish = self._locked_mhz, self._wish
        if locked_mhz is None or wish.clock_mhz != locked_mhz:
            return
        try:
            now_mhz = self._driver(self._gpu.in_force_mhz)
            if self._near(now_mhz, locked_mhz, self._step_mhz):
                return
            if self._driver(self._gpu.event_reasons) & SLOWING:
                return
        except DriverError as error:
            self._report(Result(device=self.index, wish=wish, note=str(error), failed=True))
            return
        self._set(wish, locked_mhz)

    def _restore(self, wish: Wish) -> None:
        pause_s = 0.02
        while not self._stopped:
            try:
                self._driver(self._reset)
            except (DriverError, OSError) as error:
                self._report(Result(device=self.index, wish=wish, note=str(error), failed=True))
                if isinstance(error, PermissionDeniedError) and self._locked_mhz is None:
                    self._forget()  # who may not reset could not lock either
                    return
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_BACKOFF_S)
                continue
            self._forget()
            self._report(Result(device=self.index, wish=wish))
            return

    def _forget(self) -> None:
        """The GPU is at its default clocks."""
        if self._journal is not None:
            self._journal.clear(self.uuid)
        self._locked_mhz = None
        self._at_default = True

    def _reset(self) -> None:
        was_mhz = self._locked_mhz if self._locked_mhz != self.clocks_mhz[-1] else None
        restore_gpu(self._gpu, was_mhz=was_mhz, had_setting=self._had_setting)

    def _mark(self) -> None:
        if self._locked_mhz is not None:
            return
        self._had_setting = "clock setting" in self._driver(self._gpu.event_reasons)
        if self._journal is not None:
            self._journal.mark(self.uuid, had_setting=self._had_setting)

    def _near(self, achieved_mhz: float, clock_mhz: float, tolerance_mhz: float = 1.0) -> bool:
        """Whether a clock is the one that was set; boards step down by one level when warm."""
        return abs(achieved_mhz - clock_mhz) <= tolerance_mhz

    def _driver(self, call: Callable[[], _T]) -> _T:
        self._busy_since = time.monotonic()
        try:
            return retry_transient(call)
        finally:
            self._busy_since = 0.0
