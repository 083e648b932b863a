"""The process of one GPU: it alone makes that GPU's driver calls, and is killed if one hangs.

Forked by the parent, which never loads the driver. `hold` serves the worker's wishes for as long as
worker and parent live; when either is gone it gives the clock back and ends. `restore` comes after
one that was killed, or after a restart, and goes on until the GPU is at its default clocks and has
been seen under load. No exit is left to chance: a call that outlasts everybody is ended by a timer
of the kernel's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.examining import Examining
from voltana_actuatord.daemon.gpulink import Examined
from voltana_actuatord.daemon.inboxes import LinkInbox, NoWishes
from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.driving import GpuDriving
from voltana_actuatord.faults import DriverError, NoSuchGpuError
from voltana_actuatord.restoring import GpuRestoring

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.inboxes import GpuJob
    from voltana_actuatord.daemon.linkends import GpuEnd
    from voltana_actuatord.drivers.port import Gpu, GpuDriver
    from voltana_actuatord.wishes import Result

DEAD_MAN_S = 4.0
LAST_TRIES, LAST_TRIES_S = 4, 1.5
REOPEN_S, WATCHED_REOPEN_S = 0.15, 0.5
TRIES_BEFORE_REOPENING = 3


def hold(job: GpuJob, link: GpuEnd) -> None:
    """Serve the wishes of a worker until it or the parent is gone; the clock is given back then."""
    inbox = LinkInbox(job, link)
    try:
        with _opening(job):
            driver = job.open_driver()
            gpu = _found(driver, job.uuid)
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

    examining = Examining(gpu, driving, job, inbox.answer)

    def examine() -> None:
        if examining.before_lease():  # what comes back is another one to the driver: whoever is
            inbox.end()  # next opens it anew

    inbox.examine = examine
    driving.look_besides = examining.during_lease
    driving.run(TRIES_BEFORE_REOPENING)
    _restore_at_the_end(driving, job, inbox)
    if not job.slot.state.marked:
        with contextlib.suppress(DriverError):
            driver.close()


def restore(job: GpuJob) -> None:
    """Restore a GPU, and watch it until it has run under load, or until the parent is gone."""
    inbox = NoWishes(job)
    log, told = Log("restorer"), ""

    def report(result: Result) -> None:
        if result.note:
            log(result.note)

    while _unfinished(job, inbox):
        try:
            with _opening(job):
                driver = job.open_driver()
            with contextlib.closing(driver):
                _restore_through(driver, job, inbox, report)
        except (DriverError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log(f"{job.uuid} is not restored: {told}")
        if _unfinished(job, inbox):
            inbox.rest(REOPEN_S if job.slot.state.marked else WATCHED_REOPEN_S)


def _restore_through(
    driver: GpuDriver, job: GpuJob, inbox: NoWishes, report: Callable[[Result], None]
) -> None:
    """Restore through one opening of the driver, which is to be opened again if it refuses.

    Resets that it takes and ignores are counted on, up to a doubt: that GPU may be lent.
    """
    with _opening(job):
        gpu = _found(driver, job.uuid)
        restoring = GpuRestoring(
            gpu,
            report,
            journal=job.journal,
            terms=job.terms,
            slot=job.slot,
            clocks_mhz=_table(gpu),
        )
    while _unfinished(job, inbox) and restoring.failures < TRIES_BEFORE_REOPENING:
        restoring.tend()
        inbox.rest(restoring.due_s() or 0.0)


def _unfinished(job: GpuJob, inbox: NoWishes) -> bool:
    """Whether there is more to do; without the parent there is little time, for locks alone."""
    if inbox.waiting(0.0) or inbox.ended:
        return job.slot.state.marked and inbox.ended_for_s() < LAST_TRIES_S
    return job.slot.state is not ClockState.DEFAULT


def _restore_at_the_end(driving: GpuDriving, job: GpuJob, inbox: NoWishes) -> None:
    """Give the clock back; where the parent lives, others go on after a few tries."""
    tries = 0
    while job.slot.state.marked and inbox.ended_for_s() < LAST_TRIES_S:
        driving.restore()
        tries += 1
        if job.slot.state.marked:
            if tries >= LAST_TRIES and not inbox.parent_gone():
                return
            inbox.rest(driving.due_s() or 0.0)


def _found(driver: GpuDriver, uuid: str) -> Gpu:
    """The GPU of a UUID; never another, nor one under two names, which two owners would have.

    Raises:
        DriverError: If there is none.
    """
    gpu = driver.gpu(uuid)
    if gpu.uuid != uuid:
        raise NoSuchGpuError(
            f"the driver answers to {uuid} with {gpu.uuid:.64}. Name it by that, if it is meant."
        )
    return gpu


def _table(gpu: Gpu) -> tuple[float, ...]:
    """Its clocks; none where they cannot be read, since a reset needs none."""
    try:
        return gpu.clocks_mhz()
    except DriverError:
        return ()


@contextlib.contextmanager
def _opening(job: GpuJob):  # type: ignore[no-untyped-def]
    """Open the driver, which may take longer than other calls."""
    job.slot.opening = True
    job.rearm(job.opening_s + 1.0)
    try:
        with job.slot.timed():
            yield
    finally:
        job.slot.opening = False
        job.rearm()
