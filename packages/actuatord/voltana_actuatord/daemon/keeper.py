"""The parent's end of one GPU: starts its process, sees it hang or die, and has the clock restored.

What is known of the clock stands in shared memory (`page`), so that neither a killed process nor a
removed file makes the parent forget a lock. Restoring processes may overlap: one that is merely
slow goes on while another tries, since resets harm nobody. One that may lock is killed first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from voltana_actuatord.backoff import Backoff
from voltana_actuatord.daemon import holder
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.linkends import link
from voltana_actuatord.daemon.page import PROCESSES, ClockState
from voltana_actuatord.daemon.signals import ignore_all_but
from voltana_actuatord.daemon.starving import Starving

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.inboxes import GpuJob
    from voltana_actuatord.daemon.linkends import WorkerEnd
    from voltana_actuatord.daemon.page import Slot

SLOW_RESTORE_S = 1.5
"""How long a call of a restoring process may take; others try meanwhile."""

OPENING_S, LONGEST_OPENING_S = 3.0, 48.0
"""How long opening the driver may take, which may have to wake every GPU of the node; twice as long
after each that took longer, since a shorter one would never get there."""

PROMPT_S = 0.2
"""How long one may be in a call before another tries beside it."""

AFRESH_S = 0.25
"""How long the youngest of as many as there may be is in a call before another tries in its place:
the driver may answer whoever asks now, and never those who asked while it hung."""

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.1
FIRST_REST_S, LAST_REST_S = 0.3, 2.0


@dataclass(slots=True)
class Child:
    """A process of a GPU.

    Attributes:
        pid: Its id.
        place: Which of the GPU's slots it has.
        slot: That slot.
        killed: Whether it was killed from here.
        dirty: Whether it might lock after what has been restored meanwhile.
        stopped: Whether a signal has stopped it.
        opening_s: How long it may take to open the driver.
        started_s: When it was started.
        opened: Whether the driver has answered it.
    """

    pid: int
    place: int
    slot: Slot
    killed: bool = False
    dirty: bool = False
    stopped: bool = False
    opening_s: float = OPENING_S
    started_s: float = 0.0
    opened: bool = False


@dataclass(slots=True)
class Limits:
    """How long a GPU's process may be in a call of the driver, and silent otherwise; in seconds."""

    call_s: float = 0.2
    silence_s: float = 0.6


class Keeper:
    """Keeps one GPU.

    Args:
        uuid: The GPU.
        index: Its place in the page.
        make_job: Makes the job of the process at a place.
        close: Closes what a forked process must not keep open.
        limits: How long calls and silence may last.
        log: Called with what the operator should know.

    Attributes:
        held: Whether it has ever been lent by this daemon.
    """

    def __init__(
        self,
        uuid: str,
        index: int,
        make_job: Callable[[int], GpuJob],
        close: Callable[[], None],
        *,
        limits: Limits,
        log: Callable[[str], None],
    ) -> None:
        self.uuid = uuid
        self.index = index
        self._make_job = make_job
        self._close = close
        self._limits = limits
        self._log = log
        self._holder: Child | None = None
        self._orphaned = False
        self._starving = Starving()
        self._children: list[Child] = []
        self._lockers: set[int] = set()
        self._next_try_s = 0.0
        self._pauses = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        self._rests = Backoff(FIRST_REST_S, LAST_REST_S)
        self._rest_until_s = 0.0
        self._opening_s = OPENING_S
        self.held = False
        self.slot = make_job(0).slot

    @property
    def state(self) -> ClockState:
        """What is known of the GPU's clock."""
        return self.slot.state

    @property
    def marked(self) -> bool:
        """Whether a lock of ours may stand, or may still come about."""
        return self.state.marked or bool(self._lockers - self._living_holder())

    @property
    def served(self) -> bool:
        """Whether a process serves it whose worker lives; its end wakes the parent by itself."""
        return self._holder is not None and not self._orphaned

    def ready(self, now_s: float) -> bool:
        """Whether a process that may lock can be started."""
        idle = self._holder is None and not self._lockers
        return idle and self.state.ready and now_s >= self._rest_until_s

    def word(self, now_s: float) -> str:
        """How it is: ``open`` (a process serves it), ``ready`` for one, or ``restoring``."""
        if self.served:
            return "open"
        return "ready" if self.ready(now_s) else "restoring"

    def orphan(self) -> None:
        """The worker that its process served is gone."""
        self._orphaned = self._holder is not None

    def pids(self) -> list[int]:
        """Its processes."""
        return [child.pid for child in self._children]

    def hold(self) -> WorkerEnd:
        """Start a process that serves a worker; the worker's end of the link."""
        for child in self._children:
            self._kill(child)
        self.reap()
        ours, theirs = link()

        def serve(job: GpuJob) -> None:
            ours.close()
            holder.hold(job, theirs)

        try:
            child = self._fork(serve)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._holder = child
        self.held = True
        self._orphaned = False
        self._lockers.add(child.pid)
        return ours

    def look(self, now_s: float) -> None:
        """See what became of the processes, and start what is needed."""
        self.reap()
        self._note_opened(now_s)
        self._end_hung_holder(now_s)
        working = self._end_slow_restorers(now_s)
        if self._holder is not None:
            return
        if self.state is ClockState.DEFAULT:
            for child in self._children:
                self._kill(child)
            self._pauses.reset()
            return
        if working == 0 and now_s >= self._next_try_s:
            if self._free_place() is None:
                self._replace_youngest(now_s)
                return
            self._next_try_s = now_s + self._pauses.next_s()
            self._fork(holder.restore)

    def restore_afresh(self) -> None:
        """Have it restored once more, on terms that have changed."""
        for child in self._children:
            child.dirty = True
        self.end()
        self.slot.state = ClockState.RESTORING

    def end(self) -> None:
        """Kill every process."""
        for child in self._children:
            self._kill(child)

    def reap(self) -> None:
        """Take note of processes that have ended, or were stopped."""
        for child in list(self._children):
            status = _waited(child.pid)
            if status is None:
                continue
            if os.WIFSTOPPED(status):
                child.stopped = True
                continue
            self._children.remove(child)
            self._lockers.discard(child.pid)
            if child is self._holder:
                self._holder = None
            if child.dirty and not self.state.marked:  # it may have locked once more before its end
                self.slot.state = ClockState.RESTORING

    # --- processes

    def _end_hung_holder(self, now_s: float) -> None:
        child = self._holder
        if child is None:
            return
        busy_s = child.slot.busy_s(now_s)
        silent_s = child.slot.silent_s(now_s)
        hung = busy_s > (child.opening_s if child.slot.opening else self._limits.call_s)
        silent = hung or (not busy_s and silent_s > self._limits.silence_s)
        if child.stopped or (
            silent and not self._starving.spares(child.pid, now_s - (busy_s or silent_s), now_s)
        ):
            child.dirty = self.state.marked
            self._be_patient(child)
            self._kill(child)
            self._holder = None
            self._rest_until_s = now_s + self._rests.next_s()
            what = "a driver call" if hung else "its process"
            self._log(f"{what} for {self.uuid} does not return: abandoned, and restored afresh.")
        elif child.slot.busy_s(now_s) == 0.0 and now_s > self._rest_until_s + LAST_REST_S:
            self._rests.reset()

    def _end_slow_restorers(self, now_s: float) -> int:
        """Kill restoring processes that take for ever; the number of those that get on."""
        working = 0
        for child in self._children:
            if child is self._holder or child.killed:
                continue
            busy_s = child.slot.busy_s(now_s)
            quiet_s = child.slot.silent_s(now_s)
            limit_s = child.opening_s if child.slot.opening else SLOW_RESTORE_S
            if child.stopped or busy_s > limit_s or (not busy_s and quiet_s > 1.0):
                self._be_patient(child)
                self._kill(child)
            elif busy_s <= min(self._limits.call_s, PROMPT_S):
                working += 1
        return working

    def _replace_youngest(self, now_s: float) -> None:
        """Make room for another try; the elder ones keep waiting for a driver that is slow."""
        youngest = self._children[-1]
        if not youngest.killed and youngest.slot.busy_s(now_s) > AFRESH_S:
            self._kill(youngest)

    def _note_opened(self, now_s: float) -> None:
        """Give the next ones no longer than the driver needs, once it has answered."""
        for child in self._children:
            if not child.opened and not child.slot.opening:
                child.opened = True
                took_s = now_s - child.started_s
                self._opening_s = max(OPENING_S, min(self._opening_s, 2.0 * took_s))

    def _be_patient(self, child: Child) -> None:
        """Give the next ones longer where one is killed while it opens the driver."""
        if child.slot.opening and not child.stopped:
            self._opening_s = min(LONGEST_OPENING_S, max(self._opening_s, 2.0 * child.opening_s))

    def _fork(self, run: Callable[[GpuJob], None]) -> Child:
        place = self._free_place()
        if place is None:
            raise OSError("no place for another process")
        job = replace(self._make_job(place), opening_s=self._opening_s)
        job.slot.begin()
        job.slot.opening = True  # until it has
        started_s = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become(run, job, self._close)
        child = Child(pid, place, job.slot, opening_s=job.opening_s, started_s=started_s)
        self._children.append(child)
        return child

    def _free_place(self) -> int | None:
        taken = {child.place for child in self._children}
        free = [place for place in range(PROCESSES) if place not in taken]
        return free[0] if free else None

    def _living_holder(self) -> set[int]:
        """The process that serves a worker; one without a worker has something to finish."""
        return set() if self._holder is None or self._orphaned else {self._holder.pid}

    def _kill(self, child: Child) -> None:
        child.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


def _become(run: Callable[[GpuJob], None], job: GpuJob, close: Callable[[], None]) -> None:
    """What a forked process does: its job, and nothing after it."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        ignore_all_but()  # it ends with the worker or the parent
        for number in (signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        _rearm()
        close()
        run(replace(job, rearm=_rearm))
        status = 0
    except Exception as error:  # noqa: BLE001  (the parent has the clock restored, whatever it was)
        Log("GPU's process")(f"{job.uuid}: not foreseen, and restored afresh: {error!r:.300}")
    finally:
        os._exit(status)


def _rearm(seconds: float = holder.DEAD_MAN_S) -> None:
    """Have the kernel end this process unless it is heard of again: SIGALRM has no handler."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _waited(pid: int) -> int | None:
    """The status of a process that has ended or was stopped; None if neither."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    except ChildProcessError:
        return 0
    return status if found == pid else None
