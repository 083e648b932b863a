"""How one GPU is given its default clocks back, and watched until it is known to have them.

What is known of the clock stands in a slot (`daemon.page`) before anything is done, so that whoever
comes after can go on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.daemon.page import ClockState, own_slot
from voltana_actuatord.daemon.restore import ATTEMPTS as QUICK_RETRIES
from voltana_actuatord.daemon.restore import Evidence, doubt, reasons_of, reset_and_weigh, weigh
from voltana_actuatord.drivers.port import Reason
from voltana_actuatord.faults import DriverArgumentError, DriverError, PermissionDeniedError
from voltana_actuatord.wishes import Result, Terms, Wish

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.page import Slot
    from voltana_actuatord.drivers.port import Settable

_T = TypeVar("_T")

LOOK_S = 0.2
"""How often a GPU that was reset, and not seen under load since, is looked at."""

FIRST_RETRY_S, LAST_RETRY_S = 0.02, 0.2


class GpuRestoring:
    """Restores one GPU.

    Args:
        gpu: The GPU.
        report: Called with every result.
        journal: Cleared after a reset; None keeps no journal.
        terms: What the operator lays down.
        slot: What others may know of it.
        clocks_mhz: Its clocks, ascending; none where they cannot be read.

    Attributes:
        clocks_mhz: Them.
        slot: See above.
        failures: How often in a row the driver has refused to reset, or to be looked at.
    """

    def __init__(
        self,
        gpu: Settable,
        report: Callable[[Result], None],
        *,
        journal: Journal | None,
        terms: Terms | None,
        slot: Slot | None,
        clocks_mhz: tuple[float, ...],
    ) -> None:
        self.clocks_mhz = clocks_mhz
        self.slot = slot or own_slot()
        self._gpu = gpu
        self._report = report
        self._journal = journal
        self._terms = terms or Terms()
        self._wish = Wish(None)
        self._locked_mhz: float | None = None
        self._resting = True
        self._noted_mhz = math.nan
        self._resets = 0
        self.failures = 0
        self._ever_set = True
        self._told = ""
        self._stale_mark = False
        self._retries = Backoff(FIRST_RETRY_S, LAST_RETRY_S)

    def restore(self) -> None:
        """Reset once, and weigh what can be read."""
        slot = self.slot
        self._locked_mhz = None
        if slot.state is not ClockState.DOUBTFUL:
            slot.state = ClockState.RESTORING
        try:
            found = self._reset()
        except (DriverError, OSError) as error:
            if isinstance(error, PermissionDeniedError) and not self._ever_set:
                self._settled(ClockState.DEFAULT)  # who may not reset could not lock either
                return
            self.failures += 1
            self._complain(str(error))
            return
        self.failures = 0
        self._resets += 1
        if found is not Evidence.HELD:
            gone = found is Evidence.GONE
            self._settled(ClockState.DEFAULT if gone else ClockState.WATCHED)
        elif self._resets >= QUICK_RETRIES:
            slot.state = ClockState.DOUBTFUL
            self._complain(doubt(self._gpu, QUICK_RETRIES), failed=False)

    def tend(self) -> None:
        """Undo what may be locked, or look whether it is undone."""
        if self.slot.state is ClockState.WATCHED:
            self._look()
        elif self.slot.state.marked:
            self.restore()
        if self._stale_mark and not self.slot.state.marked:
            self._unmark(watched=self.slot.state is ClockState.WATCHED)

    def _reset(self) -> Evidence:
        shows = self._telling_mhz()
        had_setting = self.slot.had_setting
        found = reset_and_weigh(self._gpu, shows, had_setting=had_setting, call=self._driver)
        baseline_mhz = self._terms.baseline_mhz
        if baseline_mhz is not None and found is not Evidence.HELD:
            try:
                self._driver(lambda: self._gpu.lock(baseline_mhz, baseline_mhz))
            except DriverArgumentError as error:  # a mistake in a file locks nobody out
                text = f"{error} The baseline of {self._gpu.label} is left out."
                self._report(self._result(self._wish, note=text, failed=True))
                return found
            return Evidence.GONE
        return found

    def _telling_mhz(self) -> list[float]:
        """Clocks at which our lock may stand, without that at which the GPU runs by itself."""
        fastest_mhz = self.clocks_mhz[-1] if self.clocks_mhz else math.inf
        return [mhz for mhz in self.slot.locked_mhz() if mhz < fastest_mhz]

    def _settled(self, state: ClockState) -> None:
        self._locked_mhz = None
        self._rest_at(state)
        self._tell_restored()

    def _rest_at(self, state: ClockState) -> None:
        """Nothing of ours is known to stand: the mark goes before the slot says so.

        Whoever reads there that all is well may end this process at once.
        """
        self._unmark(watched=state is ClockState.WATCHED)
        if state is ClockState.DEFAULT:
            self.slot.forget_lock()
        self.slot.state = state

    def _look(self) -> None:
        """Look at a GPU that was reset, until it has run under load."""
        try:
            clock_mhz = self._driver(self._gpu.in_force_mhz)
            reasons = self._driver(lambda: reasons_of(self._gpu))
            unlocked_mhz = self._driver(self._gpu.unlocked_mhz)
        except DriverError:
            self.failures += 1  # where the GPU was lost, only a new handle shows it again
            return
        self.failures = 0
        shows = self._telling_mhz()
        # A setting at another clock than ours is somebody else's.
        found = weigh(
            clock_mhz,
            reasons - {Reason.SETTING},
            shows,
            had_setting=True,
            unlocked_mhz=unlocked_mhz,
        )
        if found is Evidence.HELD:
            self.slot.state = ClockState.RESTORING
            self._resets = 0
            self._complain(f"{self._gpu.label} runs as it was locked: it is reset again.")
            self._ensure_mark(clock_mhz)
            self.restore()
        elif found is Evidence.GONE:
            self._rest_at(ClockState.DEFAULT)

    def _unmark(self, *, watched: bool) -> None:
        """Clear the mark; one that cannot be cleared costs a needless reset after a restart."""
        if self._journal is None:
            return
        self._stale_mark = False
        try:
            (self._journal.watch if watched else self._journal.clear)(self._gpu.uuid)
        except OSError:
            self._stale_mark = True

    def _ensure_mark(self, clock_mhz: float) -> None:
        if self._journal is None:
            return
        if self._resting and clock_mhz != self._noted_mhz:  # a disk may keep a writer waiting
            self._noted_mhz = clock_mhz
            self._journal.note_clock(self._gpu.uuid, clock_mhz)
        self._journal.ensure(
            self._gpu.uuid,
            had_setting=self.slot.had_setting,
            clock_mhz=clock_mhz,
            baseline_mhz=self._terms.baseline_mhz,
        )

    def due_s(self) -> float | None:
        """Seconds until `tend` is due; None if nothing is."""
        state = self.slot.state
        if state.marked:
            return self._retries.next_s()
        if state is ClockState.WATCHED:
            return LOOK_S
        return 1.0 if self._stale_mark else None

    def _tell_restored(self) -> None:
        self._told = ""
        state = self.slot.state
        self._report(Result(device=self._gpu.uuid, wish=self._wish, state=state))

    def _complain(self, text: str, *, failed: bool = True) -> None:
        """Say why the GPU is not restored: every time that the reason changes."""
        if text != self._told:
            self._told = text
            self._report(self._result(self._wish, note=text, failed=failed))

    def _result(
        self,
        wish: Wish,
        *,
        clock_mhz: float = math.nan,
        note: str = "",
        explained: bool = True,
        failed: bool = False,
    ) -> Result:
        return Result(
            device=self._gpu.uuid,
            wish=wish,
            clock_mhz=clock_mhz,
            explained=explained,
            note=note,
            failed=failed,
            state=self.slot.state,
        )

    def _driver(self, call: Callable[[], _T]) -> _T:
        """Make a call of the driver under everybody's eyes; again at once if it is merely busy."""
        for left in (2, 1, 0):
            self.slot.enter()
            try:
                return call()
            except DriverError as error:
                if not (error.transient and left):
                    raise
            finally:
                self.slot.leave()
        raise AssertionError  # the last try has returned or raised
