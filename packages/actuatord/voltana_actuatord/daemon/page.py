"""What the parent knows of every GPU without asking: memory that it shares with their processes.

Each GPU's process writes its slot before it acts: that it is about to lock, at which clock, since
when a call has been in the driver. The parent reads it whatever has become of that process, and of
the files. Every word is 64 bits, so that no access is torn.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_GPUS = 64
PROCESSES = 6
"""Processes that one GPU may have at a time; each has a slot of its own for its signs of life."""
WORDS = 8
_STATE, _ALIVE, _BUSY, _CLOCK, _BEFORE, _HAD_SETTING, _OPENING = range(7)


class ClockState(enum.IntEnum):
    """What is known of a GPU's clock setting.

    DEFAULT: nothing is set, or nothing of ours. WATCHED: it was reset, but has not been seen under
    load since. DOUBTFUL: resets succeed, and what is read back contradicts them. RESTORING: it has
    to be reset. LOCKED: a lock is on, or may be.
    """

    DEFAULT = 0
    WATCHED = 1
    DOUBTFUL = 2
    RESTORING = 3
    LOCKED = 4

    @property
    def marked(self) -> bool:
        """Whether a lock of ours may stand."""
        return self >= ClockState.DOUBTFUL

    @property
    def ready(self) -> bool:
        """Whether the GPU may be lent: never refused for good because of a doubt."""
        return self <= ClockState.DOUBTFUL


class Slot:
    """The words of one GPU, and those of one of its processes.

    Args:
        clock: Words that say what is known of the clock; shared by the GPU's processes.
        life: Words for the signs of life of one process.
    """

    def __init__(self, clock: memoryview, life: memoryview) -> None:
        self._words = clock
        self._life = life

    @property
    def state(self) -> ClockState:
        """What is known of the clock."""
        return ClockState(self._words[_STATE])

    @state.setter
    def state(self, state: ClockState) -> None:
        self._words[_STATE] = state

    @property
    def had_setting(self) -> bool:
        """Whether somebody else had set a clock before the lock."""
        return bool(self._words[_HAD_SETTING])

    @had_setting.setter
    def had_setting(self, had: bool) -> None:
        self._words[_HAD_SETTING] = int(had)

    def note_lock(self, clock_mhz: float) -> None:
        """A call that locks at a clock is about to be made; the one before it may still hold."""
        words = self._words
        words[_BEFORE] = words[_CLOCK]
        words[_CLOCK] = int(1000.0 * clock_mhz)

    def locked_mhz(self) -> frozenset[float]:
        """Clocks at which a lock may stand."""
        return frozenset(1e-3 * khz for khz in (self._words[_CLOCK], self._words[_BEFORE]) if khz)

    def forget_lock(self) -> None:
        """No lock stands."""
        self._words[_CLOCK] = self._words[_BEFORE] = 0

    def clear(self) -> None:
        """Another GPU gets the words."""
        for word in range(WORDS):
            self._words[word] = 0

    def enter(self) -> None:
        """A driver call begins."""
        self._life[_BUSY] = time.monotonic_ns()

    def leave(self) -> None:
        """The driver call has ended."""
        self._life[_ALIVE] = time.monotonic_ns()
        self._life[_BUSY] = 0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """A driver call, from its beginning to its end."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def pulse(self) -> None:
        """The process lives, and is in no driver call."""
        self._life[_ALIVE] = time.monotonic_ns()

    def begin(self) -> None:
        """A process takes the slot over."""
        self._life[_BUSY] = self._life[_OPENING] = 0
        self.pulse()

    @property
    def opening(self) -> bool:
        """Whether its process is opening the driver, which may have to wake the GPU first."""
        return bool(self._life[_OPENING])

    @opening.setter
    def opening(self, opening: bool) -> None:
        self._life[_OPENING] = int(opening)

    def busy_s(self, now_s: float) -> float:
        """For how long a driver call has been running; 0 if there is none."""
        since_ns = self._life[_BUSY]
        return now_s - 1e-9 * since_ns if since_ns else 0.0

    def silent_s(self, now_s: float) -> float:
        """For how long the process has given no sign of life."""
        return now_s - 1e-9 * self._life[_ALIVE]


def own_slot() -> Slot:
    """A slot that nobody shares, for a process that drives GPUs by itself."""
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    return Slot(words, words)


class Page:
    """The slots of all GPUs; made before anything is forked, and inherited.

    Raises:
        OSError: If there is no memory.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * WORDS * MAX_GPUS * (1 + PROCESSES))
        self._words = memoryview(self._memory).cast("q")

    def slot(self, gpu: int, process: int) -> Slot:
        """The slot of one of the processes of one GPU.

        Raises:
            IndexError: If there are not that many.
        """
        if not (0 <= gpu < MAX_GPUS and 0 <= process < PROCESSES):
            raise IndexError(f"GPU {gpu}, process {process}")
        first = gpu * (1 + PROCESSES)
        return Slot(self._at(first), self._at(first + 1 + process))

    def _at(self, index: int) -> memoryview:
        return self._words[WORDS * index : WORDS * (index + 1)]
