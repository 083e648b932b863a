"""What waits in a scheduler of vLLM, read from its own queues without changing them."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.queue_view import NOTHING, WALKED, QueueView, earlier, view_of
from voltana_ring.layout import MAX_ENTRIES
from voltana_vllm.hooks.contract import QUEUES

if TYPE_CHECKING:
    from voltana_ring.hooks.cached_share import CachedShare
    from voltana_vllm.hooks.followed import Told


class QueueReader:
    """Reads a scheduler's queues; unchanged ones only once, where sums are enough.

    A request whose KV cache is being fetched waits as well: nothing of it can be computed yet. One
    of a session that waits for its user's next input does not.

    Args:
        scheduler: The scheduler.
        known: What is known of its requests.
        cached: What the prefix cache held of recent prompts.
        listening: Status of a session that waits for input.
    """

    __slots__ = ("_cached", "_known", "_listening", "_of", "_scheduler", "_sums", "_sums_of")

    def __init__(
        self, scheduler: Any, known: dict[str, Told], cached: CachedShare, listening: int
    ) -> None:
        self._scheduler = scheduler
        self._known = known
        self._cached = cached
        self._listening = listening
        names = [name for name in QUEUES if hasattr(scheduler, name)]
        self._of = attrgetter(*names)  # there are two at least
        self._sums_of: Any = None
        self._sums = NOTHING

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not any(self._of(self._scheduler))

    def read(self, begun: dict[str, Told], *, detailed: bool) -> QueueView:
        """The queue now.

        Args:
            begun: Prompts of which a part is computed, by id; their rest comes first of all.
            detailed: Whether the entries are wanted; sums alone cost less.
        """
        both = self._of(self._scheduler)
        if not any(both):
            self._sums_of = None
            return _before(self._rests(begun), NOTHING) if begun else NOTHING
        queues = [queue for queue in both if queue]
        # The queues are read again when something joined or left; what is behind the first of them
        # is there unchanged.
        sums_of = [(len(queue), _first(queue)) for queue in queues]
        if detailed or sums_of != self._sums_of:
            self._sums_of, self._sums = sums_of, self._view(queues)
        return _before(self._rests(begun), self._sums) if begun else self._sums

    def _rests(self, begun: dict[str, Told]) -> list[tuple[float, int, int]]:
        return [self._read(0, told.request) for told in begun.values()]

    def _view(self, queues: list[Any]) -> QueueView:
        waiting: list[Any] = []
        for queue in queues:
            waiting += _head(queue, WALKED - len(waiting))
        size = sum(map(len, queues))
        able = [request for request in waiting if request.status != self._listening]
        if not able:
            return NOTHING
        return view_of(able, self._read, size - (len(waiting) - len(able)))

    def _read(self, _index: int, request: Any) -> tuple[float, int, int]:
        """Arrival, tokens to compute and tokens before them of a request."""
        told = self._known.get(request.request_id)
        arrived_s = float("nan") if told is None else told.arrived_s
        size, done = request.num_tokens, request.num_computed_tokens
        if told is not None and told.remote and not told.joined:
            return arrived_s, size, 0  # computed elsewhere, and loaded as a whole
        if not done:
            done = int(size * self._cached.share)
        left = max(size - done, 1)  # one is always computed
        return arrived_s, left, size - left


def _before(rests: list[tuple[float, int, int]], queue: QueueView) -> QueueView:
    """A queue with what is left of prompts that are under way in front."""
    oldest_s, tokens = queue.oldest_s, queue.tokens
    entries: list[float] = []
    for rest in rests:
        oldest_s = earlier(oldest_s, rest[0])
        tokens += rest[1]
        entries += rest
    both = [*entries, *queue.entries][: 3 * MAX_ENTRIES]
    return QueueView(queue.requests + len(rests), tokens, oldest_s, both)


def _first(queue: Any) -> Any:
    return queue.peek_request()


def _head(queue: Any, count: int) -> list[Any]:
    """The first requests of a queue; one by priority is a heap, which iterates by sorting all."""
    heap = getattr(queue, "_heap", None)
    if heap is not None:
        return sorted(heap[:count])
    return list(islice(queue, max(count, 0)))
