"""What waits in a scheduler of vLLM, read from its own queues without changing them."""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import Any

from voltana_ring.hooks.queue_view import WALKED
from voltana_ring.scheduled import QUEUED, Row
from voltana_vllm.hooks.contract import QUEUES

_QUEUED = int(Row.QUEUED)


class QueueReader:
    """Reads a scheduler's queues; unchanged ones only once, where sums are enough.

    A request whose KV cache is being fetched waits as well: nothing of it can be computed yet. One
    of a session that waits for its user's next input does not.

    Args:
        scheduler: The scheduler.
        listening: Status of a session that waits for input.

    Attributes:
        told: Of which queues rows were told; None where nothing waited.
    """

    __slots__ = ("_listening", "_of", "_scheduler", "_size", "told")

    def __init__(self, scheduler: Any, listening: int) -> None:
        self._scheduler = scheduler
        self._listening = listening
        names = [name for name in QUEUES if hasattr(scheduler, name)]
        self._of = attrgetter(*names)  # there are two at least
        self.told: Any = None
        self._size = 0

    def read(self, *, detailed: bool) -> tuple[int, bytes]:
        """How many wait, and the rows of the first of them; none where they are as they were.

        Args:
            detailed: Whether they are told anyway.
        """
        both = self._of(self._scheduler)
        if not any(both):
            self.told = None
            return 0, b""
        queues = [queue for queue in both if queue]
        # The queues are read again when something joined or left; what is behind the first of them
        # is there unchanged.
        told = [(len(queue), queue.peek_request()) for queue in queues]
        if not detailed and told == self.told:
            return self._size, b""
        waiting: list[Any] = []
        for queue in queues:
            waiting += _head(queue, WALKED - len(waiting))
        able = [request for request in waiting if request.status != self._listening]
        rows = b"".join([
            QUEUED.pack(_QUEUED, one.num_tokens, one.num_computed_tokens, hash(one.request_id))
            for one in able
        ])  # fmt: skip
        size = sum(map(len, queues)) - (len(waiting) - len(able)) if able else 0
        self.told, self._size = told, size
        return size, rows

    def forget(self) -> None:
        """What was read may not have been told."""
        self.told = None


def _head(queue: Any, count: int) -> list[Any]:
    """The first requests of a queue; one by priority is a heap, which iterates by sorting all."""
    heap = getattr(queue, "_heap", None)
    if heap is not None:
        return sorted(heap[:count])
    return list(islice(queue, max(count, 0)))
