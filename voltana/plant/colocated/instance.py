"""A colocated instance: one engine that computes prompts and produces tokens.

Its batches are those of `EngineScheduler`; each is formed when the one before has ended. Latency
and energy of an iteration are the plant's for any `Load` (`voltana.plant.latency`): products,
element-wise kernels and collectives for prompt and decode tokens together, attention of either
kind, and one launch. So a mixed batch reads the weights once, and pays once what a batch costs.

The gap between two tokens of a request is no iteration's time here: it spans the batches of prompts
that came between. Gaps are measured by request, iterations by the runner.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from voltana.cluster.candidates import instance_state
from voltana.cluster.queueing import queue_behind
from voltana.plant.colocated.request import EngineRequest
from voltana.plant.host_queue import HostQueue
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.plant.coefficients import HostCoefficients
    from voltana.plant.colocated.request import Batch
    from voltana.plant.colocated.scheduler import EngineScheduler
    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job
    from voltana.plant.runner import Runner
    from voltana.slo import Slo
    from voltana.values import InstanceState, Queue

IDLE = Load()


class ColocatedInstance:
    """Computes prompts and produces all tokens of its requests.

    Args:
        runner: Runs its iterations.
        events: Where it schedules their ends.
        scheduler: Forms its batches.
        slo: The thresholds, from which the queue's deadlines and what a token may take follow.
        host: What its host takes for a request, an iteration and a token, beside the device.
        take_up: Called with each job that it reports from now on.
        deliver: Called with each job whose first token reaches the client, and the time.
        complete: Called with each finished job, and the time.

    Attributes:
        gap_s: Gaps between two tokens of a request.
        gap_tokens: How many tokens had each of them.
    """

    def __init__(
        self,
        runner: Runner,
        events: EventQueue,
        *,
        scheduler: EngineScheduler,
        slo: Slo,
        host: HostCoefficients,
        take_up: Callable[[Job], None],
        deliver: Callable[[Job, float], None],
        complete: Callable[[Job, float], None],
    ) -> None:
        self.runner = runner
        self.gap_s = array("f")
        self.gap_tokens = array("i")
        self._events = events
        self._scheduler = scheduler
        self._slo = slo
        self._host = host
        self._take_up = take_up
        self._deliver = deliver
        self._complete = complete
        self._preparing = HostQueue(events, host.request_s, self._prepared)
        self._jobs: dict[EngineRequest, Job] = {}  # of all that the engine has
        self._load = IDLE
        self._device_end_s = self._due_s = 0.0
        self._busy = False

    @property
    def capacity_tokens(self) -> int:
        """Tokens that its KV cache holds."""
        return self._scheduler.options.capacity_tokens

    @property
    def retractions(self) -> int:
        """Times that a running request was put back for want of KV cache."""
        return self._scheduler.retractions

    @property
    def busy(self) -> bool:
        """Whether an iteration is running."""
        return self._busy

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that it has to compute, those of the running batch included."""
        waiting = sum(request.left_tokens for request in self._waiting())
        return self._load.prefill_tokens + waiting + self._preparing.tokens

    def state(self) -> InstanceState:
        """What it reports to routers; what its host prepares is not in it yet."""
        waiting = list(self._waiting())
        tokens = sum(request.left_tokens for request in waiting)
        used = self.capacity_tokens - self._scheduler.available_tokens
        return instance_state(
            running_requests=len(self._jobs) - len(waiting),
            kv_tokens=used,
            queued_requests=len(waiting),
            queued_tokens=tokens + self._load.prefill_tokens,
            oldest_wait_s=max(self._events.now_s() - self._oldest_s(), 0.0),
            clock_mhz=self.runner.board.clock_mhz,
        )

    def host_s(self, now_s: float) -> float:
        """When its host would have prepared one more request, from now."""
        return self._preparing.next_s(now_s)

    def enqueue(self, job: Job, now_s: float) -> None:
        """Take a job, which the engine sees once the host has prepared it."""
        self._preparing.add(job, now_s)

    def _prepared(self, job: Job, now_s: float) -> None:
        request = EngineRequest(
            job.index,
            job.prompt_tokens,
            job.output_tokens,
            prefix=job.prefix,
            recorded=job.cached_tokens,
        )
        self._jobs[request] = job
        self._scheduler.add(request)
        self._take_up(job)
        if not self._busy:
            # As an event of its own, so that all that is prepared at this time starts together.
            self._busy = True
            self._events.schedule(now_s, self._start)

    def _start(self, now_s: float) -> None:
        batch = self._scheduler.schedule()
        if batch is None:
            self._busy, self._load = False, IDLE
            self.runner.idle(now_s)
            return
        load = self._load = batch.load()
        end_s = self.runner.begin(load, self._queue(now_s), now_s, self._slack_s(batch, now_s))
        host = self._host
        host_end_s = now_s + host.step_s + host.token_s * load.decode_requests
        self._device_end_s = end_s
        self._due_s = max(end_s, host_end_s) if load.decode_requests else end_s
        self._events.schedule(self._due_s, self._finish)

    def _finish(self, now_s: float) -> None:
        self.runner.finish(self._device_end_s)
        batch = self._scheduler.commit()
        self._load = IDLE
        gaps = Counter[float]()
        for chunk in batch.chunks:
            if chunk.last:
                self._token(chunk.request, now_s, gaps)
        for request in batch.decode:
            self._token(request, now_s, gaps)
        for gap_s, tokens in gaps.items():
            self.gap_s.append(gap_s)
            self.gap_tokens.append(tokens)
        self._start(now_s)

    def _token(self, request: EngineRequest, now_s: float, gaps: Counter[float]) -> None:
        """A request has its next token."""
        job = self._jobs[request]
        job.produced_tokens = request.produced
        if job.first_token_s == math.inf:
            job.first_token_s = now_s
            job.cached_tokens = request.found
            self._deliver(job, now_s)
        else:
            gaps[now_s - job.last_token_s] += 1
        job.last_token_s = now_s
        if request.finished:
            job.completed_s = now_s
            del self._jobs[request]
            self._complete(job, now_s)

    def _slack_s(self, batch: Batch, now_s: float) -> float:
        """What is left of the ITL threshold for the requests that wait for their next token.

        Those that decode in a mixed batch are not among the running ones until the next one.
        """
        running = [*self._scheduler.running, *batch.decode]
        if not running:
            return math.nan
        return self._slo.itl_s - (now_s - min(self._jobs[r].last_token_s for r in running))

    def _waiting(self) -> Iterator[EngineRequest]:
        """Those whose prompts are to be computed, in the order in which they will be."""
        if self._scheduler.cut is not None:
            yield self._scheduler.cut
        yield from self._scheduler.waiting

    def _oldest_s(self) -> float:
        """Arrival of the job that has waited longest for its first token; inf where none waits."""
        return min(
            (job.arrival_s for job in self._jobs.values() if job.first_token_s == math.inf),
            default=math.inf,
        )

    def _queue(self, now_s: float) -> Queue:
        """What waits behind a batch. Those that were retracted are due only with those around."""
        waiting = list(self._waiting())
        due = [
            (now_s if (job := self._jobs[r]).first_token_s < math.inf else job.arrival_s,
             r.left_tokens, r.cached)
            for r in waiting
        ]  # fmt: skip
        oldest_s = self._oldest_s()
        return queue_behind(
            due,
            requests=len(waiting),
            tokens=sum(request.left_tokens for request in waiting),
            oldest_s=math.nan if oldest_s == math.inf else oldest_s,
            now_s=now_s,
            ttft_s=self._slo.ttft_s,
            max_batch_tokens=self._scheduler.prompt_tokens_of_batch,
        )
