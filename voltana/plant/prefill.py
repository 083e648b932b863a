"""A prefill instance: first come, first served, in batches of a limited number of tokens.

A prompt that is computed keeps its blocks until a decode instance has pulled them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from voltana.cluster.candidates import instance_state
from voltana.cluster.queueing import queue_behind
from voltana.plant.host_queue import HostQueue
from voltana.plant.job import oldest_s
from voltana.values import Load, attended_pairs
from voltana.values.work import make_load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.cluster.request_promises import RequestPromises
    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job
    from voltana.plant.prefix_reuse import PrefixReuse
    from voltana.plant.runner import Runner
    from voltana.values import InstanceState, Queue

IDLE = Load()


class PrefillInstance:
    """Computes prompts and hands each finished one on.

    Args:
        runner: Runs its iterations.
        events: Where it schedules their ends.
        max_tokens: Prompt tokens of one iteration; a longer prompt is chunked.
        ttft_s: TTFT threshold, from which the queue's deadlines follow.
        request_s: Time that its host takes to prepare a request; one after the other, while the
            device computes.
        take_up: Called with each job that it reports from now on.
        hand_on: Called with each job whose prompt is done, and the time.
        promises: What is promised to its requests; None where somebody else promises.
        reuse: Its KV memory, where prompts of earlier jobs are found; None computes every token.
        capacity_tokens: What prompts under way and those that are held may take of its KV memory;
            inf where they never wait for it, and what is held is not counted.
    """

    def __init__(
        self,
        runner: Runner,
        events: EventQueue,
        *,
        max_tokens: int,
        ttft_s: float,
        request_s: float,
        take_up: Callable[[Job], None],
        hand_on: Callable[[Job, float], None],
        promises: RequestPromises | None = None,
        reuse: PrefixReuse | None = None,
        capacity_tokens: float = math.inf,
    ) -> None:
        self.runner = runner
        self._promises = promises
        self._capacity_tokens = capacity_tokens
        self._held: dict[int, int] = {}  # tokens of prompts that are done and not pulled yet
        self._held_tokens = 0
        self._events = events
        self._max_tokens = max_tokens
        self._ttft_s = ttft_s
        self._host = HostQueue(events, request_s, self._prepared)
        self._take_up = take_up
        self._hand_on = hand_on
        self._reuse = reuse
        self._part: Job | None = None  # computed in part by the iteration under way
        self._waiting: deque[Job] = deque()
        self._batch: list[Job] = []
        self._waiting_tokens = 0
        self._oldest_s = math.inf  # arrival of the oldest of batch and line
        self._load = IDLE
        self._due_s = 0.0  # when the iteration under way ends
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether an iteration is running."""
        return self._busy

    def state(self) -> InstanceState:
        """What it reports to routers; what its host prepares is not in it yet."""
        oldest_s, now_s = self._oldest_s, self._events.now_s()
        return instance_state(
            queued_requests=len(self._waiting),
            queued_tokens=self._waiting_tokens + self._load.prefill_tokens,
            oldest_wait_s=now_s - oldest_s if oldest_s < math.inf else 0.0,
            clock_mhz=self.runner.board.clock_mhz,
            ttft_margin=0.0 if self._promises is None else self._promises.ttft_margin,
            computing_tokens=self._load.prefill_tokens,
            computing_for_s=now_s - self.runner.started_s if self._busy else 0.0,
        )

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that it has to compute, those of the running batch included."""
        return self._load.prefill_tokens + self._waiting_tokens + self._host.tokens

    @property
    def batch(self) -> Sequence[Job]:
        """Jobs whose prompts the iteration under way completes."""
        return self._batch

    @property
    def waiting(self) -> Sequence[Job]:
        """Jobs that wait, in their order; the first may have been computed in part."""
        return self._waiting

    def host_s(self, now_s: float) -> float:
        """When its host would have prepared one more request, from now."""
        return self._host.next_s(now_s)

    def enqueue(self, job: Job, now_s: float) -> None:
        """Take a job whose prompt is to be computed, once the host has prepared it."""
        self._host.add(job, now_s)

    @property
    def held_tokens(self) -> int:
        """Tokens of prompts that are computed and whose caches nobody has pulled yet."""
        return self._held_tokens

    def let_go(self, job: Job, now_s: float) -> None:
        """The KV cache of a job that was handed on has been pulled, or is not wanted."""
        self._held_tokens -= self._held.pop(job.index, 0)
        if self._waiting and not self._busy:
            self._start(now_s)

    def _prepared(self, job: Job, now_s: float) -> None:
        if self._reuse is not None:
            job.prefilled_tokens = self._reuse.expected(job)
        self._waiting.append(job)
        arrival_s, oldest_s = job.arrival_s, self._oldest_s
        self._oldest_s = arrival_s if arrival_s < oldest_s else oldest_s
        self._waiting_tokens += job.prompt_tokens - job.prefilled_tokens
        self._take_up(job)
        if not self._busy:
            self._start(now_s)

    def _start(self, now_s: float) -> None:
        self._load = self._form_batch()
        if not self._load.prefill_tokens:
            self.runner.idle(now_s)  # no memory for the first in line until a cache is pulled
            return
        self._busy = True
        self.revise(self.runner.begin(self._load, self._queue(now_s), now_s))

    def revise(self, end_s: float) -> None:
        """Let the iteration under way end at `end_s`, and at no time that was said before."""
        self._due_s = end_s
        self._events.schedule(end_s, self._finish)

    def drop(self, job: Job) -> bool:
        """Compute a waiting job no further; whether it was still waiting here."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        self._oldest_s = oldest_s([*self._batch, *self._waiting])
        self._waiting_tokens -= job.prompt_tokens - job.prefilled_tokens
        if self._reuse is not None and job is not self._part:
            self._reuse.release(job)
        return True

    def _form_batch(self) -> Load:
        """Move waiting jobs into the batch; one that fits in part stays in front of the queue."""
        room, tokens, pairs = self._max_tokens, 0, 0.0
        waiting, batch = self._waiting, self._batch
        used = self._held_tokens
        while waiting and room:
            job = waiting[0]
            if used and used + job.prompt_tokens > self._capacity_tokens:
                break
            used += job.prompt_tokens
            if self._reuse is not None:
                self._waiting_tokens += self._reuse.begin(job)
            new = min(room, job.prompt_tokens - job.prefilled_tokens)
            pairs += attended_pairs(new, job.prefilled_tokens)
            tokens += new
            room -= new
            job.prefilled_tokens += new
            if self._reuse is not None:
                self._reuse.make_room(job, new)
            if job.prefilled_tokens < job.prompt_tokens:
                self._part = job
                break
            batch.append(waiting.popleft())
        self._waiting_tokens -= tokens
        return make_load(prefill_tokens=tokens, prefill_attended_pairs=pairs)

    def _finish(self, now_s: float) -> None:
        if now_s != self._due_s:
            return  # revised since
        self.runner.finish(now_s)
        done, self._batch = self._batch, []
        self._oldest_s = oldest_s(self._waiting)
        self._load = IDLE
        self._busy = False
        if self._reuse is not None:
            self._keep(self._reuse, done)
        if self._capacity_tokens < math.inf:
            for job in done:
                self._held[job.index] = job.prompt_tokens
                self._held_tokens += job.prompt_tokens
        for job in done:
            self._hand_on(job, now_s)
        if self._busy:
            return  # a cache was pulled at once, and made room
        if self._waiting:
            self._start(now_s)
        else:
            self.runner.idle(now_s)

    def _keep(self, reuse: PrefixReuse, done: Sequence[Job]) -> None:
        """Keep what the iteration computed; finished prompts, and dropped ones, hold nothing."""
        part, self._part = self._part, None
        for job in done:
            reuse.computed(job)
            reuse.release(job)
        if part is not None:
            reuse.computed(part)
            if part not in self._waiting:
                reuse.release(part)

    def _queue(self, now_s: float) -> Queue:
        waiting = self._waiting
        return queue_behind(
            [
                (j.arrival_s, j.prompt_tokens - j.prefilled_tokens, j.prefilled_tokens)
                for j in waiting
            ],
            requests=len(waiting),
            tokens=self._waiting_tokens,
            oldest_s=self._oldest_s,
            now_s=now_s,
            ttft_s=self._ttft_s,
            max_batch_tokens=self._max_tokens,
        )
