"""A decode instance: continuous batching under a limited KV cache.

The cost of an iteration does not grow with the batch: the jobs that run on are only counted, and
each is filed under the iteration at which it ends.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from voltana.cluster.candidates import instance_state
from voltana.cluster.queueing import queue_behind
from voltana.plant.job import oldest_s
from voltana.values import EMPTY_QUEUE, Load
from voltana.values.work import make_load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from voltana.cluster.least_slack import LeastSlack
    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job
    from voltana.plant.runner import Runner
    from voltana.values import InstanceState, Queue


class DecodeInstance:
    """Produces the tokens after the first.

    Args:
        runner: Runs its iterations.
        events: Where it schedules their ends.
        capacity_tokens: What its KV cache can hold.
        reserved_tokens: Room kept for the growth of each admitted job.
        max_requests: Jobs of one batch.
        slack: What its jobs were faster than they had to be; None keeps no account of it.
        step_s: Time of the host for each iteration, while the device computes.
        token_s: Time of the host for each token of an iteration, likewise.
        transfer_s: Time to move the KV cache of a prompt here, as a function of its tokens.
        complete: Called with each finished job, and the time.
        deliver: Called with each job whose first token reaches the client, the load of the batch
            that it joins, and the time.
        pulled: Called with each job whose KV cache its prefill instance need not hold any longer,
            and the time.
    """

    def __init__(
        self,
        runner: Runner,
        events: EventQueue,
        *,
        capacity_tokens: int,
        reserved_tokens: int,
        max_requests: int,
        slack: LeastSlack | None,
        step_s: float,
        token_s: float,
        transfer_s: Callable[[int], float],
        complete: Callable[[Job, float], None],
        deliver: Callable[[Job, Load, float], None],
        pulled: Callable[[Job, float], None] = lambda _job, _now_s: None,
    ) -> None:
        self.runner = runner
        self._pulled = pulled
        self.gap_s = array("f")
        self.gap_tokens = array("i")
        self.retractions = 0
        self._events = events
        self._capacity_tokens = capacity_tokens
        self._reserved_tokens = reserved_tokens
        self._max_requests = max_requests
        self._slack = slack
        self._step_s = step_s
        self._token_s = token_s
        self._device_end_s = self._host_end_s = self._due_s = 0.0
        self._transfer_s = transfer_s
        self._complete = complete
        self._deliver_first = deliver
        self._blocked: deque[Job] = deque()  # no room in the KV cache yet
        self._ready: list[Job] = []  # join at the next iteration
        self._joined: list[Job] = []  # joined at this iteration
        self._running: dict[int, Job] = {}  # in the order of joining
        self._ending: dict[int, list[Job]] = {}
        self._running_tokens = 0
        self._blocked_tokens = 0
        self._transferring_tokens = 0  # of those on their way here, and of those that are ready
        self._transferring_requests = 0
        self._iteration = 0
        self._last_end_s = 0.0
        self._busy = False

    @property
    def capacity_tokens(self) -> int:
        """Tokens that its KV cache holds."""
        return self._capacity_tokens

    @property
    def busy(self) -> bool:
        """Whether an iteration is running."""
        return self._busy

    def state(self) -> InstanceState:
        """What it reports to routers."""
        return instance_state(
            running_requests=len(self._running),
            kv_tokens=self._running_tokens,
            queued_requests=len(self._blocked) + self._transferring_requests,
            queued_tokens=self._transferring_tokens + self._blocked_tokens,
            oldest_wait_s=self._events.now_s() - oldest_s(self._blocked) if self._blocked else 0.0,
            clock_mhz=self.runner.board.clock_mhz,
            demand_per_s=self.runner.demand_per_s(),
        )

    @property
    def running(self) -> Collection[Job]:
        """The jobs of the batch, in the order of joining."""
        return self._running.values()

    @property
    def blocked(self) -> Sequence[Job]:
        """Jobs that wait for room in the KV cache."""
        return self._blocked

    def produced(self, job: Job) -> int:
        """Output tokens of a job; of one in the batch, with those of the iterations that ended."""
        if job.index not in self._running:
            return job.produced_tokens
        return job.produced_tokens + self._iteration - job.joined_at_iteration

    def drop(self, job: Job, now_s: float) -> None:
        """Serve a job no further than to the end of the iteration under way."""
        if job.index in self._running:
            ending = self._ending[job.joined_at_iteration + job.output_tokens - job.produced_tokens]
            ending.remove(job)
            job.output_tokens = self.produced(job) + 1
            self._ending.setdefault(self._iteration + 1, []).append(job)
        elif job in self._blocked:
            self._blocked.remove(job)
            self._blocked_tokens -= job.context_tokens
            self._pulled(job, now_s)
            self._end(job, now_s)
        elif job in self._ready:
            self._ready.remove(job)
            self._leave_transfer(job)
            self._end(job, now_s)
        else:
            job.output_tokens = 1  # its cache is on the way here, and it ends when that has come

    def arrive(self, job: Job, now_s: float) -> None:
        """Take a job whose prompt is done; its KV cache moves here as soon as there is room."""
        self._blocked.append(job)
        self._blocked_tokens += job.context_tokens
        self._admit(now_s)

    def _admit(self, now_s: float) -> None:
        while self._blocked and self._fits(self._blocked[0]):
            job = self._blocked.popleft()
            tokens = job.context_tokens
            self._blocked_tokens -= tokens
            self._transferring_tokens += tokens
            self._transferring_requests += 1
            if job.last_token_s < now_s:  # retracted before: its cache is on this host
                self._join_next(job, now_s)
                continue
            delay_s = self._transfer_s(job.prompt_tokens)
            if delay_s:
                self._events.schedule(now_s + delay_s, partial(self._deliver, job))
            else:
                self._deliver(job, now_s)

    def _fits(self, job: Job) -> bool:
        admitted = len(self._running) + self._transferring_requests
        if admitted >= self._max_requests:
            return False
        if not admitted:
            return True
        used = self._running_tokens + self._transferring_tokens
        reserved = self._reserved_tokens * (admitted + 1)
        return used + reserved + job.context_tokens <= self._capacity_tokens

    def _deliver(self, job: Job, now_s: float) -> None:
        """The KV cache is here, so the first token reaches the client."""
        job.first_token_s = job.last_token_s = now_s
        requests = len(self._running) + len(self._ready) + 1
        tokens = self._running_tokens + self._transferring_tokens
        self._pulled(job, now_s)
        self._deliver_first(job, Load.decode(requests, tokens), now_s)
        if job.output_tokens == 1:
            self._leave_transfer(job)
            self._end(job, now_s)
            return
        self._join_next(job, now_s)

    def _leave_transfer(self, job: Job) -> None:
        self._transferring_tokens -= job.context_tokens
        self._transferring_requests -= 1

    def _end(self, job: Job, now_s: float) -> None:
        job.completed_s = now_s
        self._complete(job, now_s)

    def _join_next(self, job: Job, now_s: float) -> None:
        self._ready.append(job)
        if not self._busy:
            # As an event of its own, so that all jobs of one prefill batch start together.
            self._busy = True
            self._events.schedule(now_s, self._start)

    def _start(self, now_s: float) -> None:
        self._joined, self._ready = self._ready, []
        for job in self._joined:
            self._join(job)
        self._make_room()
        load = make_load(decode_requests=len(self._running), decode_kv_tokens=self._running_tokens)
        queue = self._queue(now_s)
        slack_s = math.nan if self._slack is None else self._slack.of(load.decode_requests, now_s)
        end_s = self.runner.begin(load, queue, now_s, slack_s)
        self._host_end_s = now_s + self._step_s + self._token_s * load.decode_requests
        self.revise(end_s)

    def revise(self, end_s: float) -> None:
        """Let the device end its iteration at `end_s`, and at no time that was said before."""
        self._device_end_s = end_s
        self._due_s = end_s if end_s > self._host_end_s else self._host_end_s
        self._events.schedule(self._due_s, self._finish)

    def _queue(self, now_s: float) -> Queue:
        """Requests that wait for room in the KV cache; those on their way here do not wait."""
        if not self._blocked:
            return EMPTY_QUEUE
        return queue_behind(
            requests=len(self._blocked),
            tokens=self._blocked_tokens,
            oldest_s=oldest_s(self._blocked),
            now_s=now_s,
        )

    def _join(self, job: Job) -> None:
        self._leave_transfer(job)
        self._running_tokens += job.context_tokens
        self._running[job.index] = job
        job.joined_at_iteration = self._iteration
        if self._slack is not None:
            self._slack.join(job.index, job.first_token_s)
        end = self._iteration + job.output_tokens - job.produced_tokens
        self._ending.setdefault(end, []).append(job)

    def _make_room(self) -> None:
        """Retract the jobs that joined last while the batch would outgrow the KV cache."""
        running = self._running
        while len(running) > 1 and self._running_tokens + len(running) > self._capacity_tokens:
            _, job = running.popitem()
            self.retractions += 1
            if self._slack is not None:
                self._slack.leave(job.index)
            end = job.joined_at_iteration + job.output_tokens - job.produced_tokens
            self._ending[end].remove(job)
            job.produced_tokens += self._iteration - job.joined_at_iteration
            self._running_tokens -= job.context_tokens
            if job in self._joined:
                self._joined.remove(job)
            else:
                job.last_token_s = self._last_end_s
            self._blocked.appendleft(job)
            self._blocked_tokens += job.context_tokens

    def _finish(self, now_s: float) -> None:
        if now_s != self._due_s:
            return  # revised since
        self.runner.finish(self._device_end_s)
        self._iteration += 1
        self._running_tokens += len(self._running)
        self._record_gaps(now_s)
        if self._slack is not None:
            self._slack.produced(len(self._running), now_s - self._last_end_s)
        for job in self._ending.pop(self._iteration, ()):
            del self._running[job.index]
            if self._slack is not None:
                self._slack.leave(job.index)
            self._running_tokens -= job.prompt_tokens + job.output_tokens
            job.completed_s = now_s
            self._complete(job, now_s)
        self._last_end_s = now_s
        if self._blocked:
            self._admit(now_s)
        if self._running or self._ready:
            self._start(now_s)
        else:
            self._busy = False
            self.runner.idle(now_s)

    def _record_gaps(self, now_s: float) -> None:
        continuing = len(self._running) - len(self._joined)
        if continuing:
            self.gap_s.append(now_s - self._last_end_s)
            self.gap_tokens.append(continuing)
        for job in self._joined:
            self.gap_s.append(now_s - job.last_token_s)
            self.gap_tokens.append(1)
