"""What waits in a scheduler, read from its own lists without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from voltana_ring.layout import MAX_ENTRIES
from voltana_sglang.hooks.cached import noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana_sglang.hooks.cached import CachedTokens

_NAN = float("nan")

WALKED = 64
"""Requests of a long queue whose tokens are summed; the others count as long as these on average.
"""


class QueueView(NamedTuple):
    """The queue behind an iteration.

    Attributes:
        requests: How many wait.
        tokens: Their tokens that are not in the prefix cache.
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
        cached: Tells what the prefix cache holds of them.

    Attributes:
        waiting: Those that waited at the last reading.
    """

    __slots__ = ("_cached", "_decode", "_prefill", "_scheduler", "_sums", "_sums_of", "waiting")

    def __init__(self, scheduler: Any, mode: str, cached: CachedTokens) -> None:
        self._scheduler = scheduler
        self._cached = cached
        self._prefill = mode == "prefill"
        self._decode = mode == "decode"
        self._sums_of: Any = None
        self._sums = NOTHING
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
            self._sums_of = None
            return NOTHING
        return self._view(waiting, detailed=detailed)

    def _view(self, waiting: Sequence[Any], *, detailed: bool) -> QueueView:
        first, last = waiting[0], waiting[-1]
        # A match with the prefix cache is noted on requests while they wait.
        sums_of = len(waiting), first, last, noted(first), noted(last)
        if not detailed and sums_of == self._sums_of:
            return self._sums
        tokens, oldest_s = 0, _NAN
        entries: list[float] = []
        walked = waiting[:WALKED]
        cached, queued = self._cached, self._scheduler.waiting_queue
        # Those in their handshake are looked up when they have joined the queue.
        looked_up = len(queued) if cached.matched(queued) else 0
        for index, request in enumerate(walked):
            size = len(request.origin_input_ids) + len(request.output_ids)
            # What a decode server waits for is computed elsewhere, and loaded as a whole.
            done = 0 if self._decode else cached.of(request, size, matched=index < looked_up)
            arrived_s = arrival_s(request)
            tokens += size - done
            if arrived_s < oldest_s or oldest_s != oldest_s:  # noqa: PLR0124  (nan: none yet)
                oldest_s = arrived_s
            if index < MAX_ENTRIES:
                entries += (arrived_s, size - done, done)
        tokens = tokens * len(waiting) // len(walked)
        view = QueueView(len(waiting), tokens, oldest_s, entries)
        self._sums_of, self._sums = sums_of, view
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
