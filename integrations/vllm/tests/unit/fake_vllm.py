"""A scheduler that schedules as vLLM's does, as far as hooks can see it, without a model.

Chunked prefill under a budget of tokens, prefix-cache hits, preemption where blocks are short,
asynchronous scheduling with its placeholders, drafts that are accepted or not, KV caches that are
fetched or kept for others, requests that are aborted. It checks itself as vLLM does, and is no more
forgiving.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RequestStatus(enum.IntEnum):
    """In vLLM's order: whatever comes after PREEMPTED has finished."""

    WAITING = 1
    WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR = 2
    WAITING_FOR_REMOTE_KVS = 3
    WAITING_FOR_STREAMING_REQ = 4
    RUNNING = 5
    PREEMPTED = 6
    FINISHED_STOPPED = 7
    FINISHED_LENGTH_CAPPED = 8
    FINISHED_ABORTED = 9
    FINISHED_IGNORED = 10
    FINISHED_ERROR = 11


STATUSES = {status.name: int(status) for status in RequestStatus}


class Request:
    """A request, with the fields that vLLM's has."""

    def __init__(self, request_id, prompt, max_tokens, arrival_time, *, params=None, cached=0):
        self.request_id = request_id
        self.num_prompt_tokens = prompt
        self.max_tokens = max_tokens
        self.arrival_time = arrival_time
        self.kv_transfer_params = params
        self.pooling_params = None
        self.status = RequestStatus.WAITING
        self.num_computed_tokens = 0
        self.num_output_placeholders = 0
        self.num_output_tokens = 0
        self.num_preemptions = 0
        self.is_prefill_chunk = False
        self.in_cache = cached
        self.stale = 0
        self.again = False
        self.fetched = False

    @property
    def num_tokens(self):
        return self.num_prompt_tokens + self.num_output_tokens

    def is_finished(self):
        return self.status > RequestStatus.PREEMPTED


class Queue(deque):
    """vLLM's first-come-first-served queue."""

    def peek_request(self):
        return self[0]


@dataclass
class CachedRequestData:
    """What a step computes of requests that were scheduled before."""

    resumed_req_ids: set[str]
    num_computed_tokens: list[int]


@dataclass
class SchedulerOutput:
    """A step, with the fields that the hooks read."""

    scheduled_new_reqs: list[Any]
    scheduled_cached_reqs: Any
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict[str, list[int]]
    finished_req_ids: set[str]


@dataclass
class Truth:
    """What a step computes, as its author knows it."""

    prefill: dict[str, tuple[int, int]] = field(default_factory=dict)
    decode: dict[str, int] = field(default_factory=dict)


@dataclass
class Step:
    """A step that is being put together."""

    rows: dict[str, int] = field(default_factory=dict)
    drafts: dict[str, list[int]] = field(default_factory=dict)
    new: list[Any] = field(default_factory=list)
    resumed: set[str] = field(default_factory=set)
    truth: Truth = field(default_factory=Truth)


class Scheduler:
    """The scheduler.

    Args:
        budget: Tokens of one step.
        running: Requests of one batch.
        blocks: Tokens that its KV cache holds; fewer than are needed preempt.
        asynchronous: Whether steps are scheduled before the results of those before are there.
        drafts: Drafted tokens of each decoding request.
        seed: Of what is accepted of them.
        skipped: Name of the second queue, which differs among versions.
        longest: Tokens of a prompt that one step computes at most, however many it has room for.
    """

    def __init__(
        self, *, budget=64, running=8, blocks=10_000, asynchronous=False, drafts=0, seed=0,
        skipped="kv_holding_waiting", role="", longest=10**9,
    ):  # fmt: skip
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(
                tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1,
                data_parallel_index=0,
            ),
            model_config=SimpleNamespace(model="m", served_model_name=["tiny"]),
            device_config=SimpleNamespace(device_type="cpu"),
            kv_transfer_config=SimpleNamespace(kv_role=role) if role else None,
            speculative_config=SimpleNamespace() if drafts else None,
        )  # fmt: skip
        self.cache_config = SimpleNamespace(num_gpu_blocks=blocks // 16)
        self.block_size = 16
        self.max_num_scheduled_tokens = budget
        self.max_num_running_reqs = running
        self.requests: dict[str, Request] = {}
        self.running: list[Request] = []
        self.waiting = Queue()
        setattr(self, skipped, Queue())
        self._skipped = skipped
        self.finished_req_ids: set[str] = set()
        self.fetched: set[str] = set()  # whose KV cache has come
        self.failed: set[str] = set()  # of these, whose could not be read: computed here then
        self._blocks = blocks
        self._async = asynchronous
        self._drafts = drafts
        self._longest = longest
        self._rng = random.Random(seed)
        self.truth: dict[int, Truth] = {}
        self.steps = 0

    @property
    def skipped(self):
        return getattr(self, self._skipped)

    # --- What an engine core does with it ------------------------------------------------------

    def add_request(self, request):
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def abort(self, rid):
        request = self.requests.get(rid)
        if request is None or request.is_finished():
            return
        self._finish(request, RequestStatus.FINISHED_ABORTED)

    def release(self, rid):
        """Another instance has fetched the KV cache of a request that has ended."""
        assert self.requests.pop(rid).is_finished()

    def has_requests(self):
        unfinished = not all(request.is_finished() for request in self.requests.values())
        return unfinished or bool(self.finished_req_ids)

    def schedule(self, throttle_prefills=False):
        self.steps += 1
        step = Step()
        preempted = self._schedule_running(step)
        if not preempted:
            self._schedule_waiting(step)
        rows = step.rows
        new = {told.req_id for told in step.new}
        computed = [self.requests[rid].num_computed_tokens for rid in rows if rid not in new]
        for rid, tokens in rows.items():
            request = self.requests[rid]
            request.num_computed_tokens += tokens
            request.is_prefill_chunk = request.num_computed_tokens < (
                request.num_tokens + request.num_output_placeholders
            )
            request.again = request.again and request.is_prefill_chunk
            if self._async and not request.is_prefill_chunk:
                request.num_output_placeholders += 1
        assert sum(rows.values()) <= self.max_num_scheduled_tokens
        assert len(self.running) <= self.max_num_running_reqs
        output = SchedulerOutput(
            scheduled_new_reqs=step.new,
            scheduled_cached_reqs=CachedRequestData(
                resumed_req_ids=step.resumed, num_computed_tokens=computed
            ),
            num_scheduled_tokens=rows,
            total_num_scheduled_tokens=sum(rows.values()),
            scheduled_spec_decode_tokens=step.drafts,
            finished_req_ids=self.finished_req_ids,
        )
        self.finished_req_ids = set()
        self.truth[id(output)] = step.truth
        return output

    def _schedule_running(self, step):
        """Those that run already; whether one was preempted."""
        preempted = False
        for request in list(self.running):
            budget = self.max_num_scheduled_tokens - sum(step.rows.values())
            if budget <= 0 or request not in self.running or self._is_at_its_end(request):
                continue
            known = request.num_tokens + request.num_output_placeholders
            tokens = known - request.num_computed_tokens
            drafted = min(self._drafts, budget - 1) if tokens == 1 and not self._async else 0
            tokens = min(tokens + drafted, budget, self._longest)
            if tokens <= 0:
                continue
            while self._used() + tokens > self._blocks and request in self.running:
                self._preempt(self.running[-1], step)
                preempted = True
            if request not in self.running:
                continue
            self._place(request, tokens, step)
            if drafted:
                step.drafts[request.request_id] = [0] * drafted
        return preempted

    def _schedule_waiting(self, step):
        """Those that wait, in their order, as long as there is room."""
        budget = self.max_num_scheduled_tokens - sum(step.rows.values())
        while budget > 0 and len(self.running) < self.max_num_running_reqs:
            request = self._next()
            if request is None:
                break
            if request.num_computed_tokens == 0:
                request.num_computed_tokens = min(request.in_cache, request.num_tokens - 1)
            rest = request.num_tokens - request.num_computed_tokens
            tokens = min(rest, budget, self._longest)
            needed = self._used() + request.num_computed_tokens + tokens
            if needed > self._blocks and not request.fetched:  # that has its blocks already
                request.num_computed_tokens = 0
                self.waiting.appendleft(request)
                break
            if request.status == RequestStatus.WAITING:
                told = SimpleNamespace(
                    req_id=request.request_id, num_computed_tokens=request.num_computed_tokens
                )
                step.new.append(told)
            else:
                step.resumed.add(request.request_id)
            request.status = RequestStatus.RUNNING
            self.running.append(request)
            self._place(request, tokens, step)
            budget -= tokens

    @staticmethod
    def _is_at_its_end(request):
        """Whether the step before makes its last token, asynchronously."""
        ahead = request.num_output_placeholders
        return ahead > 0 and request.num_computed_tokens + 2 - ahead >= (
            request.num_prompt_tokens + request.max_tokens
        )

    def get_grammar_bitmask(self, scheduler_output):
        assert scheduler_output.num_scheduled_tokens or not self._async

    def update_from_output(self, scheduler_output, model_runner_output):
        stopped = []
        for rid, tokens in scheduler_output.num_scheduled_tokens.items():
            assert tokens > 0
            request = self.requests.get(rid)
            if request is None or request.is_finished():
                continue
            if request.stale:
                request.stale -= 1
                continue
            drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(rid, ()))
            if rid not in scheduler_output.__dict__.setdefault("complete", set()):
                continue
            accepted = self._rng.randint(0, drafts) if drafts else 0
            request.num_computed_tokens -= drafts - accepted
            made = min(1 + accepted, request.max_tokens - request.num_output_tokens)
            request.num_output_tokens += made
            if self._async:
                request.num_output_placeholders -= 1
                assert request.num_output_placeholders >= 0
            if request.num_output_tokens >= request.max_tokens:
                stopped.append(request)
        for request in stopped:
            self._finish(request, RequestStatus.FINISHED_LENGTH_CAPPED)
        return {}

    # --- Its organs --------------------------------------------------------------------------

    def _place(self, request, tokens, step):
        rid, before = request.request_id, request.num_computed_tokens
        step.rows[rid] = tokens
        fetched, request.fetched = request.fetched, False
        again = request.again  # a prompt until all of it is there once more
        if not fetched and (before < request.num_prompt_tokens or again):
            step.truth.prefill[rid] = tokens, before
        else:
            step.truth.decode[rid] = before + tokens

    def _preempt(self, request, step):
        rid = request.request_id
        self.running.remove(request)
        if step.rows.pop(rid, None) is not None:
            step.drafts.pop(rid, None)
            step.truth.prefill.pop(rid, None)
            step.truth.decode.pop(rid, None)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.stale = request.num_output_placeholders
        request.num_output_placeholders = 0
        request.num_preemptions += 1
        request.again, request.fetched = True, False
        self.waiting.appendleft(request)

    def _next(self):
        """The next request that may run; those whose KV cache is fetched step aside."""
        for request in list(self.skipped):
            if request.request_id in self.fetched:
                self.skipped.remove(request)
                request.status = RequestStatus.WAITING
                request.fetched = request.request_id not in self.failed
                request.num_computed_tokens = (request.num_prompt_tokens - 1) * request.fetched
                return request
        while self.waiting:
            request = self.waiting.popleft()
            params = request.kv_transfer_params or {}
            if params.get("do_remote_prefill"):
                params["do_remote_prefill"] = False
                request.status = RequestStatus.WAITING_FOR_REMOTE_KVS
                request.num_computed_tokens = request.num_prompt_tokens
                self.skipped.append(request)
                continue
            if request.stale:
                self.waiting.appendleft(request)
                return None
            return request
        return None

    def _used(self):
        return sum(r.num_computed_tokens for r in self.running)

    def _finish(self, request, status):
        for queue in (self.running, self.waiting, self.skipped):
            if request in queue:
                queue.remove(request)
        request.status = status
        self._free_request(request)

    def _free_request(self, request, delay_free_blocks=False):
        self.finished_req_ids.add(request.request_id)
        if not (request.kv_transfer_params or {}).get("do_remote_decode"):
            del self.requests[request.request_id]


class Core:
    """An engine core: steps a scheduler, with one step ahead where that is asynchronous."""

    def __init__(self, scheduler, tick):
        self.scheduler = scheduler
        self._tick = tick
        self._queue: deque[SchedulerOutput] = deque()
        self.outputs: list[SchedulerOutput] = []
        self._async = scheduler._async

    def step(self):
        """One step; whether there was anything to do."""
        scheduler = self.scheduler
        if not scheduler.has_requests() and not self._queue:
            return False
        if scheduler.has_requests():
            output = scheduler.schedule(False)
            complete = output.__dict__.setdefault("complete", set())
            for rid in output.num_scheduled_tokens:
                if not scheduler.requests[rid].is_prefill_chunk:
                    complete.add(rid)
            self.outputs.append(output)
            self._queue.append(output)
            self._tick(0.001)
            if not self._async or output.total_num_scheduled_tokens:
                scheduler.get_grammar_bitmask(output)
            if self._async and len(self._queue) < 2 and output.total_num_scheduled_tokens:
                return True
        output = self._queue.popleft()
        self._tick(0.004)
        scheduler.update_from_output(output, SimpleNamespace())
        return True
