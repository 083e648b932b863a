"""The process of one GPU: it alone makes that GPU's driver calls, and is killed if one hangs.

Forked by the parent, which never loads the driver. `hold` serves the worker's wishes for as long as
worker and parent live; when either is gone it gives the clock back and ends. `restore` comes after
one that was killed, or after a restart, and goes on until the GPU is at its default clocks and has
been seen under load. No exit is left to chance: a call that outlasts everybody is ended by a timer
of the kernel's.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.gpulink import (
    MAX_BYTES,
    Examined,
    decode_wish,
    encode_answer,
)
from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.driving import GpuDriving, Result, Terms, Wish, foreign_text
from voltana_actuatord.faults import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.page import Slot
    from voltana_actuatord.drivers.port import Gpu, GpuDriver

PULSE_S = 0.1
DEAD_MAN_S = 4.0
LAST_TRIES, LAST_TRIES_S = 4, 1.5
REOPEN_S = 0.15
TRIES_BEFORE_REOPENING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuJob:
    """What a GPU's process is given.

    Attributes:
        uuid: The GPU.
        slot: What others may know of it.
        open_driver: Opens the driver.
        journal: What is locked.
        terms: What the operator lays down.
        life: A pipe that ends with the parent.
        rearm: Puts off the timer that ends a process in which a call outlasts everybody.
    """

    uuid: str
    slot: Slot
    open_driver: Callable[[], GpuDriver]
    journal: Journal
    terms: Terms
    life: int
    rearm: Callable[[], None] = lambda: None


def hold(job: GpuJob, link: socket.socket) -> None:
    """Serve the wishes of a worker until it or the parent is gone; the clock is given back then."""
    inbox = _LinkInbox(job, link)
    job.slot.opening = True
    try:
        with _timed(job.slot):
            driver = job.open_driver()
            gpu = driver.gpu(job.uuid)
            driving = GpuDriving(
                gpu,
                inbox,
                inbox.answer,
                journal=job.journal,
                terms=job.terms,
                slot=job.slot,
                whole=gpu.refuse_partitioned,
            )
    except DriverError as error:
        refused = Examined(device=job.uuid, refusal=str(error), transient=error.transient)
        inbox.answer(refused)
        return
    job.slot.opening = False
    inbox.examine = lambda: inbox.answer(_examined(gpu, driving, job.terms, job.slot))
    driving.run()
    _restore_at_the_end(driving, job, inbox)
    if not job.slot.state.marked:
        with contextlib.suppress(DriverError):
            driver.close()


def restore(job: GpuJob) -> None:
    """Restore a GPU, and watch it until it has run under load, or until the parent is gone."""
    inbox = _NoWishes(job)
    log, told = Log("restorer"), ""

    def report(result: Result) -> None:
        if result.note:
            log(result.note)

    while _unfinished(job, inbox):
        try:
            with _timed(job.slot):
                driver = job.open_driver()
            with contextlib.closing(driver):
                _restore_through(driver, job, inbox, report)
        except (DriverError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log(f"{job.uuid} is not restored: {told}")
        if _unfinished(job, inbox):
            inbox.rest(REOPEN_S)


def _restore_through(
    driver: GpuDriver, job: GpuJob, inbox: _NoWishes, report: Callable[[Result], None]
) -> None:
    """Restore through one opening of the driver, which is to be opened again if that fails."""
    with _timed(job.slot):
        gpu = driver.gpu(job.uuid)
        driving = GpuDriving(
            gpu,
            inbox,
            report,
            journal=job.journal,
            terms=job.terms,
            slot=job.slot,
            clocks_mhz=_table(gpu),
        )
    tries = 0
    while _unfinished(job, inbox) and tries < TRIES_BEFORE_REOPENING:
        driving.tend_or_restore()
        tries = tries + 1 if job.slot.state is ClockState.RESTORING else 0
        inbox.rest(driving.due_s() or 0.0)


def _unfinished(job: GpuJob, inbox: _NoWishes) -> bool:
    """Whether there is more to do; without the parent there is little time, for locks alone."""
    if inbox.waiting(0.0) or inbox.ended:
        return job.slot.state.marked and inbox.ended_for_s() < LAST_TRIES_S
    return job.slot.state is not ClockState.DEFAULT


def _restore_at_the_end(driving: GpuDriving, job: GpuJob, inbox: _NoWishes) -> None:
    """Give the clock back; where the parent lives, others go on after a few tries."""
    tries = 0
    while job.slot.state.marked and inbox.ended_for_s() < LAST_TRIES_S:
        driving.restore()
        tries += 1
        if job.slot.state.marked:
            if tries >= LAST_TRIES and not inbox.parent_gone():
                return
            inbox.rest(driving.due_s() or 0.0)


def _table(gpu: Gpu) -> tuple[float, ...]:
    """Its clocks; none where they cannot be read, since a reset needs none."""
    try:
        return gpu.clocks_mhz()
    except DriverError:
        return ()


def _examined(gpu: Gpu, driving: GpuDriving, terms: Terms, slot: Slot) -> Examined:
    """Look at a GPU before it is lent; reads only."""
    refusal, transient, notes = "", False, []
    try:
        with _timed(slot):
            gpu.refuse_partitioned()
        if driving.foreign_setting():
            text = foreign_text(gpu.label)
            notes.append(text)
            refusal = "" if terms.foreign_allowed else text
        with contextlib.suppress(DriverError), _timed(slot):
            limit_w, default_w = gpu.power_limit_w(), gpu.power_range().default_w
            if abs(limit_w - default_w) > 1.0:
                notes.append(
                    f"another tool has limited {gpu.label} to {limit_w:g} W; its default is "
                    f"{default_w:g} W."
                )
    except DriverError as error:
        refusal, transient = str(error), error.transient
    return Examined(
        device=gpu.uuid,
        clocks_mhz=driving.clocks_mhz,
        refusal=refusal,
        transient=transient,
        notes=" ".join(notes),
        state=slot.state,
    )


@contextlib.contextmanager
def _timed(slot: Slot):  # type: ignore[no-untyped-def]
    slot.enter()
    try:
        yield
    finally:
        slot.leave()


class _NoWishes:
    """An inbox without wishes, that gives signs of life and sees the parent's end."""

    def __init__(self, job: GpuJob) -> None:
        self.ended_at_s = math.inf
        self._slot = job.slot
        self._life = job.life
        self._rearm = job.rearm
        self._poll = select.poll()
        self._poll.register(job.life, select.POLLIN)

    @property
    def ended(self) -> bool:
        """Whether whoever this process serves is gone."""
        return self.ended_at_s < math.inf

    def end(self) -> None:
        """Note the end."""
        self.ended_at_s = min(self.ended_at_s, time.monotonic())

    def ended_for_s(self) -> float:
        """For how long it is over."""
        return max(0.0, time.monotonic() - self.ended_at_s)

    def parent_gone(self) -> bool:
        """Whether nobody is there to go on."""
        return bool(select.select([self._life], [], [], 0.0)[0])

    def waiting(self, seconds: float | None) -> bool:
        """See `Inbox.waiting`."""
        ends_s = time.monotonic() + (3600.0 if seconds is None else seconds)
        while not self.ended:
            self._slot.pulse()
            self._rearm()
            left_s = ends_s - time.monotonic()
            ready = self._poll.poll(1e3 * max(0.0, min(PULSE_S, left_s)))
            if ready and self._heard(dict(ready)):
                return True
            if left_s <= 0:
                return False
        return True

    def rest(self, seconds: float) -> None:
        """Wait, whatever comes."""
        time.sleep(seconds)
        self._slot.pulse()
        self._rearm()

    def take(self) -> Wish | None:
        """See `Inbox.take`."""
        return None

    def _heard(self, ready: dict[int, int]) -> bool:
        if self._life in ready:
            self.end()
        return self.ended


class _LinkInbox(_NoWishes):
    """The worker's wishes; satisfies `driving.Inbox`.

    A wish is on the way from a decision to the driver: waiting for one is a single blocking call.
    """

    def __init__(self, job: GpuJob, link: socket.socket) -> None:
        super().__init__(job)
        self.examine: Callable[[], None] = lambda: None
        self._link = link
        self._device = job.uuid
        self._wish: Wish | None = None
        self._drained = False
        self._poll.register(link, select.POLLIN)
        self._more = select.poll()
        self._more.register(link, select.POLLIN)
        seconds, microseconds = divmod(round(1e6 * PULSE_S), 1_000_000)
        patience = struct.pack("@ll", seconds, microseconds)
        link.setblocking(True)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)

    def waiting(self, seconds: float | None) -> bool:
        """See `Inbox.waiting`."""
        if self._wish is not None or self.ended:
            return True
        if seconds is not None and seconds < PULSE_S:
            return super().waiting(seconds)
        ends_s = time.monotonic() + (3600.0 if seconds is None else seconds)
        while time.monotonic() < ends_s:
            self._slot.pulse()
            self._rearm()
            try:
                self._take_in(self._link.recv(MAX_BYTES))
            except (BlockingIOError, InterruptedError):  # nothing for a while: see to the parent
                if self.parent_gone():
                    self.end()
            except OSError:
                self.end()
            if self._heard({}):
                return True
        return False

    def take(self) -> Wish | None:
        """See `Inbox.take`."""
        if not self._drained:
            self._heard({})  # a later one may have come meanwhile
        self._drained = False
        wish, self._wish = self._wish, None
        return None if self.ended else wish

    def answer(self, answer: Result | Examined) -> None:
        """Tell the worker; one that does not read is replaced, and asks anew."""
        with contextlib.suppress(OSError):
            data = encode_answer(answer)
            self._link.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def _take_in(self, data: bytes) -> None:
        if not data:
            self.end()
        elif (wish := decode_wish(data)) is not None:
            self._wish = wish
        else:
            self.examine()

    def _heard(self, ready: dict[int, int]) -> bool:
        """Take in all that is there; whether there is something to do."""
        if self._life in ready:
            self.end()
        try:
            while not self.ended and self._more.poll(0):
                self._take_in(self._link.recv(MAX_BYTES, socket.MSG_DONTWAIT))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.end()
        self._drained = True
        return self.ended or self._wish is not None
