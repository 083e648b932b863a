"""All GPUs as the parent keeps them: those that were lent, and those that a restart found."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.inboxes import GpuJob
from voltana_actuatord.daemon.keeper import Keeper, Limits
from voltana_actuatord.daemon.notify import notify
from voltana_actuatord.daemon.page import MAX_GPUS, ClockState, Page
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.wishes import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voltana_actuatord.daemon.claims import Claims
    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.linkends import WorkerEnd
    from voltana_actuatord.drivers.port import GpuDriver

POLL_S = 0.005
TURN_S = 2.0
"""How long a mark keeps its place where there are more marks than places."""


class Keepers:
    """Keeps the clocks of a node.

    Args:
        journal: What is locked.
        open_driver: Opens the driver, in a child.

    Attributes:
        limits: How long calls and silence may last.
        keep_out: Descriptors that no child may hold.
        claims: Which daemon has which GPU; None claims none.
    """

    def __init__(self, journal: Journal, open_driver: Callable[[], GpuDriver]) -> None:
        self._journal = journal
        self._open_driver = open_driver
        self._log = Log("parent")
        self._page = Page()
        self._life_r, self._life_w = os.pipe2(os.O_CLOEXEC)
        self._keepers: dict[str, Keeper] = {}
        self._places = list(reversed(range(MAX_GPUS)))
        self._terms: dict[str, Terms] = {}
        self._usual = Terms(foreign_allowed=False)
        self.keep_out: list[int] = []
        self.limits = Limits()
        self.claims: Claims | None = None
        self._claimed: set[str] = set()
        self._told: set[str] = set()
        self._waiting = deque((*journal.marked(), *journal.watched()))
        self._adopted_s: dict[str, float] = {}
        self._adopt_waiting(time.monotonic())

    def lay_down(self, usual: Terms, baselines: Mapping[str, float]) -> None:
        """Take the operator's terms.

        Args:
            usual: Those of every GPU.
            baselines: Clocks in MHz of GPUs that have one.
        """
        self._usual = usual
        before, self._terms = (
            self._terms,
            {
                uuid: Terms(foreign_allowed=True, baseline_mhz=mhz)
                for uuid, mhz in baselines.items()
            },
        )
        for uuid, terms in before.items():
            keeper = self._keepers.get(uuid)
            named_mhz = baselines.get(uuid)
            if keeper and terms.baseline_mhz != named_mhz:  # a mark named one that is no more
                keeper.restore_afresh()

    def look(self, now_s: float) -> None:
        """Look after every GPU."""
        if self._waiting:
            self._adopt_waiting(now_s)
        for keeper in self._keepers.values():
            if not self._is_ours(keeper):
                continue
            try:
                keeper.look(now_s)
            except OSError as error:  # the host has no process left: that passes
                self._log(f"{keeper.uuid} waits for a process: {error.strerror or error}.")

    def _is_ours(self, keeper: Keeper) -> bool:
        """Whether no other daemon has a GPU, whatever a mark of earlier days says."""
        if self.claims is None or keeper.uuid in self._claimed:
            return True
        try:
            self.claims.claim(keeper.uuid)
        except LeaseRefusedError as error:
            if keeper.uuid not in self._told:
                self._told.add(keeper.uuid)
                self._log(f"not restored: {error}")
            return False
        self._claimed.add(keeper.uuid)
        return True

    def settle(self, limit_s: float) -> None:
        """Wait until nothing is marked, or so long."""
        ends_s = time.monotonic() + limit_s
        while self.marked() and time.monotonic() < ends_s:
            self.look(time.monotonic())
            notify("WATCHDOG=1")
            time.sleep(POLL_S)

    def hold(self, uuid: str, now_s: float) -> WorkerEnd | None:
        """Start the process that serves a GPU; the worker's end of its link, None if not yet.

        Raises:
            LeaseRefusedError: If there are too many GPUs, or another daemon has this one.
            OSError: If no process can be started.
        """
        if uuid in self._waiting:  # its mark says that it may be locked
            return None
        keeper = self._keepers.get(uuid) or self._add(uuid)
        if self.claims is not None:
            self.claims.claim(uuid)
        return keeper.hold() if keeper.ready(now_s) else None

    def states(self, now_s: float) -> dict[str, str]:
        """What the worker should know of every GPU: ``open``, ``ready`` or ``restoring``."""
        return {uuid: keeper.word(now_s) for uuid, keeper in self._keepers.items()}

    def orphan(self) -> None:
        """The worker is gone: what its GPUs' processes are doing is restoring them."""
        for keeper in self._keepers.values():
            keeper.orphan()

    def marked(self) -> list[str]:
        """UUIDs of the GPUs that may be locked."""
        kept = {uuid for uuid, keeper in self._keepers.items() if keeper.marked}
        if self._waiting:
            kept.update(set(self._waiting).intersection(self._journal.marked()))
        return sorted(kept)

    def pids(self) -> list[int]:
        """Every process of every GPU."""
        return [pid for keeper in self._keepers.values() for pid in keeper.pids()]

    def restless(self) -> bool:
        """Whether something is to be restored by others than the process that serves it."""
        return any(keeper.marked and not keeper.served for keeper in self._keepers.values())

    def end(self) -> None:
        """End every process."""
        for keeper in self._keepers.values():
            keeper.end()

    def _adopt_waiting(self, now_s: float) -> None:
        """Take over marks: as many as there is room for, and the others in turns.

        A GPU that is not to be found keeps its mark for ever, and must not keep others from theirs.
        """
        while self._waiting:
            if not self._places:
                self._forget_unused()
            if not self._places and not self._put_back(now_s):
                return
            uuid = self._waiting.popleft()
            self._adopt(uuid)
            self._adopted_s[uuid] = now_s

    def _put_back(self, now_s: float) -> bool:
        """Have the GPU whose mark was taken over first wait again; whether there is one."""
        for uuid, since_s in self._adopted_s.items():
            keeper = self._keepers.get(uuid)
            if keeper is None or keeper.held:
                continue
            if now_s - since_s < TURN_S:
                return False
            keeper.end()
            keeper.reap()
            if keeper.pids():  # one that cannot be killed keeps its place
                continue
            del self._keepers[uuid], self._adopted_s[uuid]
            self._places.append(keeper.index)
            if keeper.state is not ClockState.DEFAULT:
                self._waiting.append(uuid)
            keeper.slot.clear()
            return True
        return False

    def _adopt(self, uuid: str) -> None:
        """Take over what a mark says."""
        mark = self._journal.read(uuid)
        keeper = self._keepers.get(uuid) or self._add(uuid)
        locked = uuid in self._journal.marked()
        keeper.slot.state = ClockState.RESTORING if locked else ClockState.WATCHED
        keeper.slot.had_setting = mark.had_setting
        if mark.clock_mhz:
            keeper.slot.note_lock(mark.clock_mhz)
        if mark.baseline_mhz is not None:
            self._terms[uuid] = Terms(baseline_mhz=mark.baseline_mhz)

    def _add(self, uuid: str) -> Keeper:
        if not self._places:
            self._forget_unused()
        if not self._places and not self._put_back(math.inf):
            raise LeaseRefusedError(
                f"{uuid} would be one GPU more than the {MAX_GPUS} that are kept. Leave it out.",
                transient=True,
            )
        index = self._places.pop()
        self._keepers[uuid] = Keeper(
            uuid,
            index,
            lambda place: self._job(uuid, index, place),
            self._close_in_child,
            limits=self.limits,
            log=self._log,
        )
        return self._keepers[uuid]

    def _forget_unused(self) -> None:
        """Names that led to no GPU must not fill the page."""
        for uuid, keeper in list(self._keepers.items()):
            if not keeper.pids() and keeper.state is ClockState.DEFAULT:
                del self._keepers[uuid]
                self._adopted_s.pop(uuid, None)
                self._told.discard(uuid)
                self._claimed.discard(uuid)
                if self.claims is not None:
                    self.claims.release(uuid)
                self._places.append(keeper.index)

    def _job(self, uuid: str, index: int, place: int) -> GpuJob:
        return GpuJob(
            uuid=uuid,
            slot=self._page.slot(index, place),
            open_driver=self._open_driver,
            journal=self._journal,
            terms=self._terms.get(uuid, self._usual),
            life=self._life_r,
        )

    def _close_in_child(self) -> None:
        for handle in (*self.keep_out, self._life_w):
            with contextlib.suppress(OSError):
                os.close(handle)
