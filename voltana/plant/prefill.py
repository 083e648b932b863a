"""A prefill instance: first come, first served, in batches of a limited number of tokens."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from voltana.values import (
    EMPTY_QUEUE,
    MAX_DEADLINE_BUCKETS,
    DeadlineBucket,
    InstanceState,
    Load,
    Queue,
    attended_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job
    from voltana.plant.runner import Runner


class PrefillInstance:
    """Computes prompts and hands each finished one on.

    Args:
        runner: Runs its iterations.
        events: Where it schedules their ends.
        max_tokens: Prompt tokens of one iteration; a longer prompt is chunked.
        ttft_s: TTFT threshold, from which the queue's deadlines follow.
        request_s: Time that its host takes to prepare a request; one after the other, while the
            device computes.
        hand_on: Called with each job whose prompt is done, and the time.
    """

    def __init__(
        self,
        runner: Runner,
        events: EventQueue,
        *,
        max_tokens: int,
        ttft_s: float,
        request_s: float,
        hand_on: Callable[[Job, float], None],
    ) -> None:
        self.runner = runner
        self.pending_tokens = 0
        self._events = events
        self._max_tokens = max_tokens
        self._ttft_s = ttft_s
        self._request_s = request_s
        self._prepared_s = 0.0  # when the host has prepared all that arrived
        self._preparing: deque[Job] = deque()
        self._hand_on = hand_on
        self._waiting: deque[Job] = deque()
        self._batch: list[Job] = []
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether an iteration is running."""
        return self._busy

    def state(self) -> InstanceState:
        """What it reports to routers; queued tokens include those of the running batch."""
        return InstanceState(
            running_requests=len(self._batch),
            queued_requests=len(self._waiting) + len(self._preparing),
            queued_tokens=self.pending_tokens,
            clock_mhz=self.runner.board.clock_mhz,
            oldest_wait_s=(
                self._events.now_s() - self._waiting[0].arrival_s if self._waiting else 0.0
            ),
        )

    def enqueue(self, job: Job, now_s: float) -> None:
        """Take a job whose prompt is to be computed, once the host has prepared it."""
        self.pending_tokens += job.prompt_tokens
        self._preparing.append(job)
        if not self._request_s:
            self._prepared(now_s)
            return
        self._prepared_s = max(self._prepared_s, now_s) + self._request_s
        self._events.schedule(self._prepared_s, self._prepared)

    def _prepared(self, now_s: float) -> None:
        self._waiting.append(self._preparing.popleft())
        if not self._busy:
            self._start(now_s)

    def _start(self, now_s: float) -> None:
        load = self._form_batch()
        self._busy = True
        end_s = self.runner.begin(load, self._queue(now_s), now_s)
        self._events.schedule(end_s, self._finish)

    def _form_batch(self) -> Load:
        """Move waiting jobs into the batch; one that fits in part stays in front of the queue."""
        room, tokens, pairs = self._max_tokens, 0, 0.0
        waiting, batch = self._waiting, self._batch
        while waiting and room:
            job = waiting[0]
            new = min(room, job.prompt_tokens - job.prefilled_tokens)
            pairs += attended_pairs(new, job.prefilled_tokens)
            tokens += new
            room -= new
            job.prefilled_tokens += new
            if job.prefilled_tokens < job.prompt_tokens:
                break
            batch.append(waiting.popleft())
        self._batch_tokens = tokens
        return Load(prefill_tokens=tokens, prefill_attended_pairs=pairs)

    def _finish(self, now_s: float) -> None:
        self.runner.finish(now_s)
        done, self._batch = self._batch, []
        self.pending_tokens -= self._batch_tokens
        self._busy = False
        for job in done:
            self._hand_on(job, now_s)
        if self._waiting:
            self._start(now_s)
        else:
            self.runner.idle(now_s)

    def _queue(self, now_s: float) -> Queue:
        waiting = self._waiting
        oldest_s = self._batch[0].arrival_s if self._batch else waiting[0].arrival_s
        if not waiting:
            return Queue(oldest_wait_s=now_s - oldest_s) if now_s > oldest_s else EMPTY_QUEUE
        tokens = self.pending_tokens - self._batch_tokens
        return Queue(
            requests=len(waiting),
            tokens=tokens,
            oldest_wait_s=now_s - oldest_s,
            deadlines=deadline_buckets(waiting, self._max_tokens, self._ttft_s),
        )


def deadline_buckets(
    waiting: Iterable[Job], max_tokens: int, ttft_s: float
) -> tuple[DeadlineBucket, ...]:
    """The batches that the engine will form of a queue, each with its earliest deadline.

    Args:
        waiting: The queue, in its order.
        max_tokens: Tokens of one batch.
        ttft_s: TTFT threshold.

    Returns:
        At most `MAX_DEADLINE_BUCKETS`; whatever lies behind is merged into the last one, whose
        deadline stays that of its first request (the queue is in the order of arrival, so this is
        its earliest: conservative).
    """
    buckets: list[DeadlineBucket] = []
    tokens, pairs, batches, room = 0, 0.0, 0, 0
    deadline_s = 0.0
    for job in waiting:
        done = job.prefilled_tokens
        while done < job.prompt_tokens:
            if not room:
                if batches and len(buckets) < MAX_DEADLINE_BUCKETS - 1:
                    buckets.append(_bucket(deadline_s, tokens, pairs, batches))
                    deadline_s = job.arrival_s + ttft_s
                elif not batches:
                    deadline_s = job.arrival_s + ttft_s
                batches += 1
                room = max_tokens
            new = min(room, job.prompt_tokens - done)
            pairs += attended_pairs(new, done)
            tokens += new
            room -= new
            done += new
    if batches:
        buckets.append(_bucket(deadline_s, tokens, pairs, batches))
    return tuple(buckets)


def _bucket(deadline_s: float, tokens: int, pairs: float, batches: int) -> DeadlineBucket:
    return DeadlineBucket(
        deadline_s=deadline_s,
        cumulative_tokens=tokens,
        cumulative_attended_pairs=pairs,
        cumulative_batches=batches,
    )
