"""Where runs begin and end: batches that repeat one are left to the short way, and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.layout import BODY, MAX_PAYLOAD, REPEAT, RUN, Kind, pieces
from voltana_vllm.hooks.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana_ring.hooks.records import Launched
    from voltana_ring.writer import RingWriter

    Kept = tuple[bytes, bytes, bytes, bytes, bytes, int]
    Open = tuple[Any, Launched, int, float]

_NAN = float("nan")
# Plain numbers cost less to pack, and what is in this module less to find.
_LAUNCHED, _FINISHED, _RUN = int(Kind.LAUNCHED), int(Kind.FINISHED), int(Kind.RUN)
_pack = REPEAT.pack

MOST_AHEAD = 2
"""Batches in flight of one that schedules ahead: more are a pipeline's, which overlap."""

MOST_BEFORE_RUN = MAX_PAYLOAD // 2
"""Bytes of records that a run begins behind: where they leave less of the slot, it would be short.
"""


class Runs(Repeats):
    """Hooks that tell batches which repeat one; another class tells all others.

    Args:
        scheduler: The scheduler.
        ring: Where records go.
        now_s: The monotonic clock.

    Attributes:
        iterations: Iterations that were launched, but for those of a run that is under way.
    """

    def __init__(self, scheduler: Any, ring: RingWriter, now_s: Callable[[], float]) -> None:
        super().__init__(scheduler, ring, now_s)
        self._ring = ring
        # Batches under way with how they were launched; one that repeats another has its own
        # number and time of launch beside that.
        self._open: dict[int, Open] = {}
        self._untold: list[tuple[Open, float]] = []
        self._still = -1  # requests of a batch that may repeat; none does while it is -1
        self._launches_s: tuple[float, ...] = ()  # of what was in flight as a run began
        self._template: Launched | None = None
        self._kept: Kept = (b"", b"", b"", b"", b"", 0)
        self._kept_of: Launched | None = None
        self._ready_s = 0.0
        self._tokens_s = _NAN
        self.iterations = 0

    def _repeat(self, output: Any, launch_s: float) -> None:
        """Tell a batch that repeats the one before, whose result is there.

        Args:
            output: What was scheduled.
            launch_s: When it was launched.
        """
        (_, alike, ended, began_s), ready_s = self._untold.pop()
        if alike is not self._kept_of:
            self._kept, self._kept_of = _kept(alike), alike
        latency_s = ready_s - (began_s if began_s > self._ready_s else self._ready_s)
        self._ready_s = self._tokens_s = ready_s
        self.iterations = number = self.iterations + 1
        result, load, queue, launch, nothing, first = self._kept
        size = self._still
        self._open[id(output)] = output, alike, number, launch_s
        self._begin_run(ended + 1, _pack(
            result, ended, ready_s, load, first + size * ended, queue, began_s, ready_s, latency_s,
            launch, number, launch_s, load, first + size * number, queue, launch_s, nothing,
        ))  # fmt: skip
        self._ring.ring()

    def _put(self, told: bytes, iteration: int, *, runs: bool, left: bool) -> None:
        """Tell a launch, and begin a run behind it where the next may repeat it.

        Args:
            told: The records.
            iteration: The iteration.
            runs: Whether it is one that may be repeated.
            left: Whether it comes behind a run: who read that looks when its next pair is due, so
                that no bell is rung unless it has to look again by itself.
        """
        if runs and self._begin_run(iteration, told):
            if left:
                return
        elif not runs:
            self._ring.put(told)
        self._ring.ring()

    def _begin_run(self, number: int, told: bytes) -> bool:
        """Tell a batch that may be repeated, and leave those that do to the short way.

        Args:
            number: Of the result that is told next.
            told: The records.

        Returns:
            Whether they are left to it.
        """
        # In flight are this batch and, asynchronously, the one before: as they repeat one, and no
        # other is missing among them, their times are all that there is to tell.
        flying = list(self._open.values())
        count = len(flying)
        alike = count == 1 or (count == MOST_AHEAD and flying[0][1] is flying[1][1])
        whole = number + count == self.iterations + 1 and len(told) <= MOST_BEFORE_RUN
        if not (alike and whole and self._ready_s):
            self._ring.put(told)
            return False
        self._launches_s = tuple([launch_s for _, _, _, launch_s in flying])
        begins = RUN.pack(_RUN, number, self._launches_s[0], self._ready_s)
        self._first, self._full = self._ring.begin_run(told + begins)
        self._at, self._size = self._first, self._still
        self._flying.extend([output for output, _, _, _ in flying])
        self._open.clear()
        return True

    def _leave_run(self) -> None:
        """Go on without the run, with what is in flight of it, and a result that is there."""
        first, at, untold_s = self._first, self._at, self._untold_s
        if not first:
            return
        pairs, times, flying = (at - first) // 2, self._times, self._flying
        self._size = self._first = self._at = self._full = 0
        self._untold_s = 0.0
        self._ring.end_run(pairs)
        if pairs:
            self._ready_s = self._tokens_s = times[at - 2]
        self.iterations = number = self.iterations + pairs
        count = len(flying) + (untold_s > 0.0)
        number -= count
        launches_s = [*self._launches_s, *times[max(first, at - 2 * count) + 1 : at : 2]][-count:]
        template = self._template
        assert template is not None  # there is one as long as there is a run
        if untold_s:
            number += 1
            self._untold.append(((None, template, number, launches_s.pop(0)), untold_s))
        for output, launch_s in zip(flying, launches_s, strict=True):
            number += 1
            self._open[id(output)] = output, template, number, launch_s
        flying.clear()


def _kept(launched: Launched) -> Kept:
    """What stays as it is of batches that repeat one.

    Returns:
        Pieces of `voltana_ring.layout.REPEAT`: the beginning of a result, the loads but for the KV
        tokens, the queue, the beginning of a launch, its end; and the KV tokens of iteration 0.
    """
    flags, load, queue = launched.flags, launched.load, launched.queue
    told = launched.mode, flags, 0, 0, 0, 0.0, *load, *queue, 0, _NAN, _NAN
    result, *_ = pieces(BODY.pack(_FINISHED, *told))
    launch, loads, queued, nothing = pieces(BODY.pack(_LAUNCHED, *told))
    first = load[3] - launched.iteration * load[2]
    return result, loads, queued, launch, nothing, first
