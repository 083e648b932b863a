"""What an engine's host prepares: one request after the other, while the device computes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job


class HostQueue:
    """Jobs that the engine does not see before the host has prepared them.

    Args:
        events: Where it schedules when each is prepared.
        request_s: Time that the host takes over one.
        prepared: Called with each prepared job, and the time.

    Attributes:
        tokens: Prompt tokens of the jobs that are not prepared yet.
    """

    __slots__ = ("_events", "_jobs", "_prepared", "_prepared_s", "_request_s", "tokens")

    def __init__(
        self, events: EventQueue, request_s: float, prepared: Callable[[Job, float], None]
    ) -> None:
        self._events = events
        self._request_s = request_s
        self._prepared = prepared
        self._prepared_s = 0.0  # when all that arrived is prepared
        self._jobs: deque[Job] = deque()
        self.tokens = 0

    def next_s(self, now_s: float) -> float:
        """When it would have prepared one more request, from now."""
        busy_s = self._prepared_s - now_s
        return busy_s + self._request_s if busy_s > 0.0 else self._request_s

    def add(self, job: Job, now_s: float) -> None:
        """Take a job; it is prepared at once where that takes no time."""
        self._jobs.append(job)
        self.tokens += job.prompt_tokens
        if not self._request_s:
            self._take_first(now_s)
            return
        begins_s = self._prepared_s if self._prepared_s > now_s else now_s
        self._prepared_s = begins_s + self._request_s
        self._events.schedule(self._prepared_s, self._take_first)

    def _take_first(self, now_s: float) -> None:
        job = self._jobs.popleft()
        self.tokens -= job.prompt_tokens
        self._prepared(job, now_s)
