"""What waits in a scheduler, read from its own lists without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from voltana_ring.layout import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAN = float("nan")

_SHARE_STEP = 0.2

WALKED = 64
"""Requests of a long queue whose tokens are summed; the others count as long as these on average.
"""


class QueueView(NamedTuple):
    """The queue behind an iteration.

    Attributes:
        requests: How many wait.
        tokens: Their tokens, without those of prompts that the prefix cache holds.
        oldest_s: Arrival of the first of them; nan where none waits.
        entries: Arrival, tokens to compute, tokens before them: three numbers for each of the
            first requests, in the engine's order.
    """

    requests: int
    tokens: int
    oldest_s: float
    entries: list[float]


NOTHING = QueueView(0, 0, _NAN, [])


class QueueReader:
    """Reads a scheduler's queues; long unchanged ones only once.

    Args:
        scheduler: The scheduler.
        mode: ``null``, ``prefill`` or ``decode``.

    Attributes:
        waiting: Those that waited at the last reading.
    """

    __slots__ = (
        "_decode",
        "_first",
        "_last",
        "_length",
        "_prefill",
        "_scheduler",
        "_share",
        "_sums",
        "waiting",
    )

    def __init__(self, scheduler: Any, mode: str) -> None:
        self._scheduler = scheduler
        self._prefill = mode == "prefill"
        self._decode = mode == "decode"
        self._length = -1
        self._first: Any = None
        self._last: Any = None
        self._sums = NOTHING
        self._share = 0.0
        self.waiting: Sequence[Any] = ()

    def read(self, *, detailed: bool) -> QueueView:
        """The queue now.

        Args:
            detailed: Whether the entries are wanted; sums alone cost less.
        """
        scheduler = self._scheduler
        waiting = scheduler.waiting_queue
        if self._prefill:
            # Requests whose handshake is under way have arrived all the same.
            waiting = [*waiting, *scheduler.disagg_prefill_bootstrap_queue.queue]
        elif self._decode:
            blocked = [
                item.req
                for item in scheduler.disagg_decode_prealloc_queue.queue
                if item.waiting_for_input
            ]
            waiting = [*waiting, *blocked] if blocked else waiting
        self.waiting = waiting
        if not waiting:
            self._length, self._first, self._last = -1, None, None
            return NOTHING
        return self._view(waiting, detailed=detailed)

    def note(self, batch: Any) -> None:
        """Learn from a prefill batch which share of its prompts the prefix cache held.

        It stands for prompts that the engine has not looked up yet, as during a handshake.
        """
        cached = tokens = 0
        for request in batch.reqs:
            cached += getattr(request, "cached_tokens", 0) or 0
            tokens += len(request.origin_input_ids)
        if tokens:
            self._share += _SHARE_STEP * (min(cached / tokens, 1.0) - self._share)

    def _cached(self, request: Any, size: int, index: int) -> int:
        """Tokens of a waiting prompt that need not be computed; at least one must be."""
        if self._decode:
            return 0  # what counts there is the context, computed or not
        if self._prefill and index >= len(self._scheduler.waiting_queue):
            return min(int(self._share * size), size - 1)
        cached = getattr(request, "num_matched_prefix_tokens", None)
        if cached is None:  # before SGLang noted it: where its policy looks prompts up
            found = getattr(request, "prefix_indices", None)
            cached = 0 if found is None else len(found)
        return max(0, min(int(cached), size - 1))

    def _view(self, waiting: Sequence[Any], *, detailed: bool) -> QueueView:
        length, first, last = len(waiting), waiting[0], waiting[-1]
        if not detailed and (length, first, last) == (self._length, self._first, self._last):
            return self._sums
        tokens, oldest_s = 0, _NAN
        entries: list[float] = []
        walked = waiting[:WALKED]
        for index, request in enumerate(walked):
            size = len(request.origin_input_ids) + len(request.output_ids)
            cached = self._cached(request, size, index)
            arrived_s = arrival_s(request)
            tokens += size - cached
            if arrived_s < oldest_s or oldest_s != oldest_s:  # noqa: PLR0124  (nan: none yet)
                oldest_s = arrived_s
            if index < MAX_ENTRIES:
                entries += (arrived_s, size - cached, cached)
        tokens = tokens * length // len(walked)
        view = QueueView(length, tokens, oldest_s, entries)
        self._length, self._first, self._last, self._sums = length, first, last, view
        return view


def arrival_s(request: Any) -> float:
    """When a request reached the scheduler, on the monotonic clock; nan where it is not noted.

    A retraction overwrites the time at which it entered the queue, but not this one.
    """
    stats = getattr(request, "time_stats", None)
    at_s = getattr(stats, "scheduler_recv_time", 0.0) or getattr(
        stats, "wait_queue_entry_time", 0.0
    )
    return float(at_s) if at_s and at_s > 0 else _NAN


def oldest(requests: Iterable[Any]) -> float:
    """Earliest arrival; nan where none is noted."""
    least = _NAN
    for request in requests:
        at_s = arrival_s(request)
        if at_s < least or least != least:  # noqa: PLR0124  (nan: none yet)
            least = at_s
    return least
