"""What waits in a scheduler, read from its own lists without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.queue_view import NOTHING, WALKED, QueueView, earlier, view_of
from voltana_sglang.hooks.cached import noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana_sglang.hooks.cached import CachedTokens

_NAN = float("nan")


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
        walked = waiting[:WALKED]
        cached, queued = self._cached, self._scheduler.waiting_queue
        # Those in their handshake are looked up when they have joined the queue.
        looked_up = len(queued) if cached.matched(queued) else 0

        def read(index: int, request: Any) -> tuple[float, int, int]:
            size = len(request.origin_input_ids) + len(request.output_ids)
            # What a decode server waits for is computed elsewhere, and loaded as a whole.
            done = 0 if self._decode else cached.of(request, size, matched=index < looked_up)
            return arrival_s(request), size - done, done

        view = view_of(walked, read, len(waiting))
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
        least = earlier(least, arrival_s(request))
    return least
