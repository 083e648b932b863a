"""What the process of a GPU is given, and where its wishes come from."""

from __future__ import annotations

import contextlib
import math
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.gpulink import WISHES_BYTES, decode_wishes, encode_answer
from voltana_actuatord.daemon.readers import readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_actuatord.daemon.gpulink import Examined
    from voltana_actuatord.daemon.journal import Journal
    from voltana_actuatord.daemon.linkends import GpuEnd
    from voltana_actuatord.daemon.page import Slot
    from voltana_actuatord.drivers.port import GpuDriver
    from voltana_actuatord.wishes import Result, Terms, Wish

PULSE_S = 0.1


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
        rearm: Puts off the timer that ends a process in which a call outlasts everybody, by some
            seconds.
        opening_s: How long opening the driver may take.
    """

    uuid: str
    slot: Slot
    open_driver: Callable[[], GpuDriver]
    journal: Journal
    terms: Terms
    life: int
    rearm: Callable[..., None] = lambda *_: None
    opening_s: float = 3.0


class NoWishes:
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
        return bool(readable([self._life], 0.0))

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


class LinkInbox(NoWishes):
    """The worker's wishes; satisfies `driving.Inbox`."""

    def __init__(self, job: GpuJob, link: GpuEnd) -> None:
        super().__init__(job)
        self.examine: Callable[[], None] = lambda: None
        self._link = link
        self._wish: Wish | None = None
        self._drained = False
        self._poll.register(link.wishes, select.POLLIN)

    def waiting(self, seconds: float | None) -> bool:
        """See `Inbox.waiting`."""
        return self._wish is not None or super().waiting(seconds)

    def take(self) -> Wish | None:
        """See `Inbox.take`."""
        if not self._drained:
            self._read()  # a later one may have come meanwhile
        self._drained = False
        wish, self._wish = self._wish, None
        return None if self.ended else wish

    def answer(self, answer: Result | Examined) -> None:
        """Tell the worker; one that does not read is replaced, and asks anew."""
        with contextlib.suppress(OSError):
            self._link.answer(encode_answer(answer))

    def _heard(self, ready: dict[int, int]) -> bool:
        """Take in all that is there; whether there is something to do."""
        if self._life in ready:
            self.end()
        self._read()
        self._drained = True
        return self.ended or self._wish is not None

    def _read(self) -> None:
        """Take the latest wish of all that have come."""
        try:
            while not self.ended:
                data = self._link.read(WISHES_BYTES)
                if not data:
                    self.end()
                    return
                wish, examine = decode_wishes(data)
                self._wish = wish or self._wish
                if examine:
                    self.examine()
                if len(data) < WISHES_BYTES:
                    return
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.end()
