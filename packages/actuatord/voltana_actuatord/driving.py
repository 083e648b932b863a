"""How one GPU is driven: the latest wish wins, what was set is read back, and every lock is undone.

State-changing calls take milliseconds and a sick driver may never return, so a GPU has a thread
(`channel`) or, in the daemon, a process (`daemon.holder`) of its own, which runs this. Where wishes
come from and where results go to is handed in. What is known of the clock stands in a slot
(`daemon.page`) before anything is done, so that whoever comes after can undo it.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.daemon.page import ClockState, own_slot
from voltana_actuatord.daemon.restore import (
    ATTEMPTS as QUICK_RETRIES,
)
from voltana_actuatord.daemon.restore import (
    Evidence,
    doubt,
    reasons_of,
    reset_and_weigh,
    weigh,
)
from voltana_actuatord.drivers.port import SLOWING, Reason
from voltana_actuatord.faults import (
    DriverError,
    ForeignSettingError,
    PermissionDeniedError,
    SilentFailureError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.page import Slot
    from voltana_actuatord.drivers.port import Settable

_T = TypeVar("_T")

SETTLE_LIMIT_S = 0.25
WATCH_S = 0.5
"""How often a lock, or a GPU that was reset and not seen under load, is looked at."""
LOOK_S = 0.2
FIRST_RETRY_S, LAST_RETRY_S = 0.02, 0.2
ATTEMPTS = 3
MAX_VANISHED = 5
"""How often a lock may vanish in a row before the clock is not ours to set."""


class Wish(NamedTuple):
    """A clock, or the default clocks.

    Attributes:
        clock_mhz: The clock; None for the default ones.
        ticket: Handed back with the result.
        forced: Whether to reset also where nothing of ours is set, as an operator may ask.
    """

    clock_mhz: float | None
    ticket: int = -1
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a wish.

    Attributes:
        device: UUID of the GPU.
        wish: The wish.
        clock_mhz: Clock read back after settling.
        explained: Whether a clock other than the one wished for has a reason of its own.
        note: That reason, or why the wish failed.
        failed: Whether the wish came to nothing; the GPU may then be in any state.
        state: What is known of the clock setting now.
    """

    device: str
    wish: Wish
    clock_mhz: float = math.nan
    explained: bool = True
    note: str = ""
    failed: bool = False
    state: ClockState = ClockState.LOCKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator lays down for a GPU.

    Attributes:
        foreign_allowed: Whether to lock it where somebody else has set a clock.
        baseline_mhz: Clock at which the operator wants it when nobody has a lease; None for its
            default clocks.
    """

    foreign_allowed: bool = True
    baseline_mhz: float | None = None


class Inbox(Protocol):
    """Where wishes come from; the latest one counts."""

    def waiting(self, seconds: float | None) -> bool:
        """Wait so long for a wish or the end; whether there is one."""
        ...

    def take(self) -> Wish | None:
        """The latest wish; None at the end."""
        ...


class GpuDriving:
    """Drives one GPU; `run` is the whole life of it.

    Args:
        gpu: The GPU.
        inbox: Where wishes come from.
        report: Called with every result.
        journal: Marked before the first lock, cleared after a reset; None keeps no journal.
        terms: What the operator lays down.
        slot: What others may know of it.
        whole: Raises `PartitionedGpuError` where the clock belongs to several tenants.
        clocks_mhz: Clocks that may be set, if they are known.
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
        clocks_mhz: tuple[float, ...] | None = None,
    ) -> None:
        self.clocks_mhz = gpu.clocks_mhz() if clocks_mhz is None else clocks_mhz
        self.slot = slot or own_slot()
        steps = [b - a for a, b in itertools.pairwise(self.clocks_mhz)]
        self._step_mhz = max(steps, default=1.0)
        self._gpu = gpu
        self._inbox = inbox
        self._report = report
        self._journal = journal
        self._terms = terms or Terms()
        self._whole = whole
        self._wish = Wish(None)
        self._locked_mhz: float | None = None
        self._confirmed = False
        self._resting = False
        self._noted_mhz = math.nan
        self._watch_at_s = math.inf
        self._vanished = 0
        self._resets = 0
        self._ever_set = True
        self._told = ""
        self._stale_mark = False
        self._retries = Backoff(FIRST_RETRY_S, LAST_RETRY_S)

    def run(self) -> None:
        """Fulfil wishes until the inbox ends; changes no clock then."""
        while True:
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
        state = self.slot.state
        if state is ClockState.LOCKED:
            if time.monotonic() >= self._watch_at_s:
                self._watch()
        elif state.marked:
            self.restore()
        elif state is ClockState.WATCHED:
            self._look()
        if self._stale_mark and not self.slot.state.marked:
            self._unmark(watched=self.slot.state is ClockState.WATCHED)

    def tend_or_restore(self) -> None:
        """Undo what an earlier process may have left, or look whether it is undone."""
        if self.slot.state is ClockState.WATCHED:
            self.tend()
        else:
            self.restore()

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
            self._complain(str(error))
            return
        self._resets += 1
        if found is not Evidence.HELD:
            gone = found is Evidence.GONE
            self._settled(ClockState.DEFAULT if gone else ClockState.WATCHED)
        elif self._resets >= QUICK_RETRIES:
            slot.state = ClockState.DOUBTFUL
            self._complain(doubt(self._gpu, QUICK_RETRIES), failed=False)

    # --- restoring

    def _reset(self) -> Evidence:
        shows = self._telling_mhz()
        had_setting = self.slot.had_setting
        found = reset_and_weigh(self._gpu, shows, had_setting=had_setting, call=self._driver)
        baseline_mhz = self._terms.baseline_mhz
        if baseline_mhz is not None and found is not Evidence.HELD:
            self._driver(lambda: self._gpu.lock(baseline_mhz, baseline_mhz))
            return Evidence.GONE
        return found

    def _telling_mhz(self) -> list[float]:
        """Clocks at which our lock may stand, without that at which the GPU runs by itself."""
        fastest_mhz = self.clocks_mhz[-1] if self.clocks_mhz else math.inf
        return [mhz for mhz in self.slot.locked_mhz() if mhz < fastest_mhz]

    def _settled(self, state: ClockState) -> None:
        self._locked_mhz = None
        self.slot.state = state
        if state is ClockState.DEFAULT:
            self.slot.forget_lock()
        self._unmark(watched=state is ClockState.WATCHED)
        self._tell_restored()

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

    def _look(self) -> None:
        """Look at a GPU that was reset, until it has run under load."""
        try:
            clock_mhz = self._driver(self._gpu.in_force_mhz)
            reasons = self._driver(lambda: reasons_of(self._gpu))
        except DriverError:
            return
        shows = self._telling_mhz()
        # A setting at another clock than ours is somebody else's.
        found = weigh(clock_mhz, reasons - {Reason.SETTING}, shows, had_setting=True)
        if found is Evidence.HELD:
            self.slot.state = ClockState.RESTORING
            self._resets = 0
            self._complain(f"{self._gpu.label} runs as it was locked: it is reset again.")
            self._ensure_mark(clock_mhz)
            self.restore()
        elif found is Evidence.GONE:
            self.slot.forget_lock()
            self.slot.state = ClockState.DEFAULT
            self._unmark(watched=False)

    def _tell_restored(self) -> None:
        self._told = ""
        state = self.slot.state
        self._report(Result(device=self._gpu.uuid, wish=self._wish, state=state))

    def _complain(self, text: str, *, failed: bool = True) -> None:
        """Say why the GPU is not restored: every time that the reason changes."""
        if text != self._told:
            self._told = text
            self._report(self._result(self._wish, note=text, failed=failed))

    # --- setting

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
        slot.state = ClockState.LOCKED
        self._ever_set = False
        self._vanished = 0
        self._watch_at_s = time.monotonic() + WATCH_S

    def foreign_setting(self) -> bool:
        """Whether a clock is set that is neither ours nor the operator's baseline.

        Raises:
            DriverError: If it cannot be read.
        """
        if self.slot.state.marked or self._terms.baseline_mhz is not None:
            return False
        return Reason.SETTING in self._driver(lambda: reasons_of(self._gpu))

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
        pauses, ends_s = Backoff(0.0005, 0.01), time.monotonic() + SETTLE_LIMIT_S
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
        time.sleep(FIRST_RETRY_S)
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
        self.slot.state = ClockState.WATCHED  # should it be ours after all, it is reset
        self._unmark(watched=True)
        text = f"{foreign_text(self._gpu.label)} It was set to {clock_mhz:g} MHz during the lease."
        self._report(self._result(wish, note=text, failed=True))

    # --- small things

    def due_s(self) -> float | None:
        """Seconds until `tend` is due; None if nothing is."""
        state = self.slot.state
        if state is ClockState.LOCKED:
            return max(0.0, self._watch_at_s - time.monotonic())
        if state.marked:
            return self._retries.next_s()
        if state is ClockState.WATCHED:
            return LOOK_S
        return 1.0 if self._stale_mark else None

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

    def _near(self, achieved_mhz: float, clock_mhz: float, tolerance_mhz: float = 1.0) -> bool:
        """Whether a clock is the one that was set; boards step down by one level when warm."""
        return abs(achieved_mhz - clock_mhz) <= tolerance_mhz

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


def foreign_text(label: str) -> str:
    """What to do about a clock that somebody else has set."""
    return (
        f"another tool has set the clock of {label} (nvidia-smi -lgc or -ac, DCGM, another "
        "daemon). Take that setting back, or allow it by foreign_clocks and [[baseline]] in the "
        "daemon's configuration."
    )
