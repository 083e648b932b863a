"""How one GPU is driven: the latest wish wins, what was set is read back, and every lock is undone.

State-changing calls take milliseconds and a sick driver may never return, so a GPU has a thread
(`channel`) or, in the daemon, a process (`daemon.holder`) of its own, which runs this. Where wishes
come from and where results go to is handed in.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.daemon.restore import reasons_of
from voltana_actuatord.drivers.port import SLOWING, Reason
from voltana_actuatord.faults import DriverError, ForeignSettingError, SilentFailureError
from voltana_actuatord.restoring import GpuRestoring
from voltana_actuatord.timebase import lengthened_s
from voltana_actuatord.wishes import foreign_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.page import Slot
    from voltana_actuatord.drivers.port import Settable
    from voltana_actuatord.wishes import Inbox, Result, Terms, Wish

SETTLE_LIMIT_S = 0.25
WATCH_S = 0.5
"""How often a lock is looked at."""

STEADY_S = 0.02
ATTEMPTS = 3
MAX_VANISHED = 5
"""How often a lock may vanish in a row before the clock is not ours to set."""


class GpuDriving(GpuRestoring):
    """Drives one GPU; `run` is the whole life of it.

    Args:
        gpu: The GPU.
        inbox: Where wishes come from.
        report: Called with every result.
        journal: Marked before the first lock, cleared after a reset; None keeps no journal.
        terms: What the operator lays down.
        slot: What others may know of it.
        whole: Raises `PartitionedGpuError` where the clock belongs to several tenants.

    Attributes:
        look_besides: Called once in a while during a lease, for what else is to be seen.

    Raises:
        DriverError: If its clocks cannot be read.
    """

    def __init__(
        self,
        gpu: Settable,
        inbox: Inbox,
        report: Callable[[Result], None],
        *,
        journal: Journal | None = None,
        terms: Terms | None = None,
        slot: Slot | None = None,
        whole: Callable[[], None] = lambda: None,
    ) -> None:
        clocks_mhz = gpu.clocks_mhz()
        super().__init__(
            gpu, report, journal=journal, terms=terms, slot=slot, clocks_mhz=clocks_mhz
        )
        steps = [b - a for a, b in itertools.pairwise(clocks_mhz)]
        self._step_mhz = max(steps, default=1.0)
        self._inbox = inbox
        self._whole = whole
        self.look_besides: Callable[[], None] = lambda: None
        self._confirmed = False
        self._watch_at_s = math.inf
        self._vanished = 0

    def run(self, most_failures: float = math.inf) -> None:
        """Fulfil wishes until the inbox ends; changes no clock then.

        Args:
            most_failures: Ends as well after so many resets or looks in a row that the driver
                refused.
        """
        while self.failures < most_failures:
            if not self._inbox.waiting(self.due_s()):
                self.tend()
                continue
            wish = self._inbox.take()
            if wish is None:
                return
            self._resting = False
            self.obey(wish)
            if time.monotonic() >= self._watch_at_s:
                self._watch()

    def obey(self, wish: Wish) -> None:
        """Fulfil one wish, or begin to."""
        self._wish = wish
        if wish.clock_mhz is not None:
            self._set(wish, wish.clock_mhz)
        elif self.slot.state.marked or wish.forced:
            self._retries.reset()
            self._told = ""
            self._resets = 0
            self.restore()
        else:
            self._tell_restored()

    def tend(self) -> None:
        """Do what is due without a wish."""
        self._resting = True
        if self.slot.state is not ClockState.LOCKED:
            super().tend()
        elif time.monotonic() >= self._watch_at_s:
            self._watch()

    def due_s(self) -> float | None:
        """See `GpuRestoring.due_s`."""
        if self.slot.state is ClockState.LOCKED:
            return max(0.0, self._watch_at_s - time.monotonic())
        return super().due_s()

    def foreign_setting(self) -> bool:
        """Whether a clock is set that is neither ours nor the operator's baseline.

        Raises:
            DriverError: If it cannot be read.
        """
        if self.slot.state.marked or self._terms.baseline_mhz is not None:
            return False
        return Reason.SETTING in self._driver(lambda: reasons_of(self._gpu))

    def _set(self, wish: Wish, clock_mhz: float) -> None:
        self._confirmed = False
        try:
            if self._locked_mhz is None:
                self._prepare(clock_mhz)
            achieved_mhz = self._lock(wish, clock_mhz)
        except (DriverError, OSError) as error:
            self._report(self._result(wish, note=str(error), failed=True))
            return
        if achieved_mhz is not None:
            text = (
                f"{self._gpu.label} runs at {achieved_mhz:g} MHz, not at {clock_mhz:g} MHz, and no "
                f"event reason says why. {self._gpu.remedy(SilentFailureError)}"
            )
            self._report(self._result(wish, note=text, failed=True))

    def _prepare(self, clock_mhz: float) -> None:
        """Make sure that the clock is ours to set, and that the lock will be undone."""
        slot = self.slot
        self._driver(self._whole)
        if not slot.state.marked:
            slot.had_setting = self.foreign_setting()
            if slot.had_setting and not self._terms.foreign_allowed:
                raise ForeignSettingError(foreign_text(self._gpu.label))
        if self._journal is not None:
            self._journal.mark(
                self._gpu.uuid,
                had_setting=slot.had_setting,
                clock_mhz=clock_mhz,
                baseline_mhz=self._terms.baseline_mhz,
            )
        self._ever_set = slot.state is not ClockState.DEFAULT  # an earlier lock may still stand
        slot.state = ClockState.LOCKED
        self._vanished = 0
        self._watch_at_s = time.monotonic() + WATCH_S

    def _lock(self, wish: Wish, clock_mhz: float) -> float | None:
        """Lock, and report what was achieved; the clock that runs if it never came about."""
        achieved_mhz = math.nan
        for _ in range(ATTEMPTS):
            self.slot.note_lock(clock_mhz)
            self._driver(lambda: self._gpu.lock(clock_mhz, clock_mhz))
            self._locked_mhz = clock_mhz
            self._ever_set = True
            result = self._settle(wish, clock_mhz)
            if result is None:
                return None
            if result.explained:
                self._confirmed = True
                self._report(result)
                return None
            achieved_mhz = result.clock_mhz
        return achieved_mhz

    def _settle(self, wish: Wish, clock_mhz: float) -> Result | None:
        """Wait until the clock is there; None as soon as a newer wish has come."""
        pauses, ends_s = Backoff(0.0005, 0.01), time.monotonic() + lengthened_s(SETTLE_LIMIT_S)
        while True:
            achieved_mhz = self._driver(self._gpu.in_force_mhz)
            if self._near(achieved_mhz, clock_mhz):
                return self._result(wish, clock_mhz=achieved_mhz)
            if time.monotonic() > ends_s:
                if self._near(achieved_mhz, clock_mhz, self._step_mhz):
                    return self._result(wish, clock_mhz=achieved_mhz)
                reasons = sorted(self._driver(self._gpu.event_reasons) & SLOWING)
                note = ", ".join(reasons)
                return self._result(wish, clock_mhz=achieved_mhz, note=note, explained=bool(note))
            if self._inbox.waiting(pauses.next_s()):
                return None

    def _watch(self) -> None:
        """See whether the lock is still there, and still ours, and its mark as well."""
        self._watch_at_s = time.monotonic() + WATCH_S
        locked_mhz, wish = self._locked_mhz, self._wish
        if self.slot.state is not ClockState.LOCKED or locked_mhz is None:
            return
        self._ensure_mark(locked_mhz)
        try:
            self._driver(self._whole)
            if self._confirmed:
                self._keep(wish, locked_mhz)
            self.look_besides()
        except DriverError as error:
            self._report(self._result(wish, note=str(error), failed=True))

    def _keep(self, wish: Wish, locked_mhz: float) -> None:
        """Set a clock again that has vanished; leave one alone that somebody else has set."""
        now_mhz = self._driver(self._gpu.in_force_mhz)
        if self._near(now_mhz, locked_mhz, self._step_mhz):
            self._vanished = 0
            return
        reasons = self._driver(lambda: reasons_of(self._gpu))
        if reasons & SLOWING:
            return
        self._vanished += 1
        if Reason.SETTING in reasons and self._is_set_at(now_mhz):
            self._yield(now_mhz)
        elif self._vanished > MAX_VANISHED:
            text = f"the lock of {self._gpu.label} vanishes again and again. Find who resets it."
            self._report(self._result(wish, note=text, failed=True))
        else:
            self._set(wish, locked_mhz)

    def _is_set_at(self, clock_mhz: float) -> bool:
        """Whether a clock is that of a setting: one of the table, and steady."""
        time.sleep(STEADY_S)
        again_mhz = self._driver(self._gpu.in_force_mhz)
        return (
            again_mhz == clock_mhz
            and not self._inbox.waiting(0.0)
            and (any(self._near(clock_mhz, mhz) for mhz in self.clocks_mhz))
        )

    def _yield(self, clock_mhz: float) -> None:
        """Somebody else has set the clock: theirs is left alone, and ours is gone with it."""
        wish, ours_mhz = self._wish, self._locked_mhz
        self._locked_mhz = None
        self.slot.forget_lock()
        self.slot.note_lock(ours_mhz or 0.0)
        self._rest_at(ClockState.WATCHED)  # should it be ours after all, it is reset
        text = f"{foreign_text(self._gpu.label)} It was set to {clock_mhz:g} MHz during the lease."
        self._report(self._result(wish, note=text, failed=True))

    def _near(self, achieved_mhz: float, clock_mhz: float, tolerance_mhz: float = 1.0) -> bool:
        """Whether a clock is the one that was set; boards step down by one level when warm."""
        return abs(achieved_mhz - clock_mhz) <= tolerance_mhz
