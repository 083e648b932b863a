"""The batches of an engine that serves both phases, one after the other, as SGLang forms them.

A function of the engine's state and of what has arrived; it knows no time. Read from SGLang 0.5.23
(``managers/scheduler.py``: ``get_next_batch_to_run``; first come, first served), and held against a
real server step by step (``integrations/sglang/tests/real/test_colocated_batches.py``):

- A batch of prompts goes first whenever one can be formed; requests decode otherwise. With
  `SchedulerOptions.mixed`, those that run join the batch of prompts with one token each.
- A prompt that is longer than what is left of a chunk is cut; it goes on with the next batch,
  before anybody who waits, and there is one such prompt at a time.
- Nobody is admitted once the KV cache was found full, until a request leaves.
- If the next tokens of the running requests do not fit, those with the least output so far, and of
  these the longest prompts, are retracted: they lose their KV cache and wait behind all others.
- Room is kept for a share of what running requests may still produce. That share falls with each
  decode batch, and a retraction raises it.

What an engine that works ahead (SGLang's overlap) knows late is what the caller commits late: it
asks for the next batch before it commits the one before.

Exceptions: SGLang ends a lone request that outgrows the KV cache, and refuses a prompt that never
fits; here both are served. Priorities and speculation are left out. Prefix caches are as
`KvMemory` says, held against a real server's in ``test_colocated_cache.py`` beside that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.cluster.context import DEFAULT_BATCH_TOKENS
from voltana.errors import invalid
from voltana.plant.colocated.admission import PrefillPass, Verdict
from voltana.plant.colocated.kv_memory import KvMemory
from voltana.plant.colocated.request import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.colocated.request import EngineRequest

FIRST_RATIO = 0.7
"""New-token ratio of an engine that was idle (``SGLANG_INIT_NEW_TOKEN_RATIO``)."""

LEAST_RATIO = FIRST_RATIO * 0.14
"""The least that it falls to (``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR``)."""

RATIO_STEP = (FIRST_RATIO - LEAST_RATIO) / 600
"""What a decode batch takes off it (``SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS``)."""

RETRACTED_STEPS = 20
"""Tokens that each request kept at a retraction is to get (``SGLANG_RETRACT_DECODE_STEPS``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerOptions:
    """How an engine forms batches; the flags are SGLang's.

    Attributes:
        capacity_tokens: Tokens that its KV cache holds (``--max-total-tokens``).
        chunk_tokens: Tokens beyond which prompts are cut (``--chunked-prefill-size``).
        batch_tokens: Prompt tokens of one batch (``--max-prefill-tokens``).
        max_requests: Requests that run at once (``--max-running-requests``).
        page_tokens: Tokens of a page of the KV cache (``--page-size``).
        mixed: Whether requests decode beside prompts (``--enable-mixed-chunk``).
        prefix_cache: Whether prompts are kept for later ones (not ``--disable-radix-cache``).

    Raises:
        ConfigError: If one is below 1.
    """

    capacity_tokens: int
    chunk_tokens: int = 8192
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    max_requests: int = 2048
    page_tokens: int = 1
    mixed: bool = False
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        for name in (
            "capacity_tokens", "chunk_tokens", "batch_tokens", "max_requests", "page_tokens"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise invalid(name, getattr(self, name), "at least 1", "Give a positive number.")


class EngineScheduler:
    """Forms batches of what was added.

    Args:
        options: How.

    Attributes:
        waiting: Requests that have not been admitted, and those that were retracted.
        running: Requests that decode, in their order; those of a batch of prompts join at the next.
        cut: The request whose prompt was computed in part.
        new_token_ratio: Share of what running requests may still produce for which room is kept.
        retractions: Times that a request lost its KV cache.
    """

    def __init__(self, options: SchedulerOptions) -> None:
        self.options = options
        self.waiting: deque[EngineRequest] = deque()
        self.running: list[EngineRequest] = []
        self.cut: EngineRequest | None = None
        self.new_token_ratio = FIRST_RATIO
        self.retractions = 0
        self._full = False
        self._last: Batch | None = None
        self._uncommitted: deque[Batch] = deque()
        self._memory = KvMemory(
            options.capacity_tokens, options.page_tokens, keeps=options.prefix_cache
        )

    @property
    def prompt_tokens_of_batch(self) -> int:
        """Prompt tokens that fit one batch by now: those that decode beside take some of it."""
        options, last = self.options, self._last
        most = min(options.chunk_tokens, options.batch_tokens)
        if not options.mixed:
            return most
        beside = 0 if last is None else len(last.decode)  # they run again after that batch
        return max(most - len(self.running) - beside, 1)

    @property
    def available_tokens(self) -> int:
        """Tokens of the KV cache that no request in the engine uses."""
        return self._memory.available_tokens

    def add(self, request: EngineRequest) -> None:
        """A request has arrived."""
        self._memory.expect(request)
        self.waiting.append(request)

    def schedule(self) -> Batch | None:
        """The next batch; None where there is nothing to compute, or its results are awaited."""
        self._keep_cut()
        self._join_last()
        batch = self._prefill_batch()
        if batch is None and self.running:
            batch = self._decode_batch()
        if batch is not None:
            self._uncommitted.append(batch)
        elif not (self._uncommitted or self.running or self.waiting or self.cut):
            self.new_token_ratio = FIRST_RATIO
        self._last = batch
        return batch

    def commit(self) -> Batch:
        """The earliest batch that was not committed has been computed; its tokens are known.

        Returns:
            That batch. Requests that ended with it are `finished`; a request that was retracted
            meanwhile got no token of it.
        """
        batch = self._uncommitted.popleft()
        for chunk in batch.chunks:
            if chunk.last:
                self._memory.computed(chunk)
                self._produce(chunk.request)
        for request in batch.decode:
            self._produce(request)
        return batch

    def _produce(self, request: EngineRequest) -> None:
        if request.finished or request.retracted:
            return
        request.produced += 1
        if request.produced >= request.output_tokens:
            request.finished = True
            self._memory.release(request)

    def _keep_cut(self) -> None:
        """What of a cut prompt was in the batch before can be found from now on, committed or not.

        So an engine that works ahead lets others share it while it is computed.
        """
        if self.cut is not None and self._last is not None:
            for chunk in self._last.chunks:
                if not chunk.last:
                    self._memory.computed(chunk)

    def _join_last(self) -> None:
        """Let the requests of the batch before run, unless they have ended or their prompt goes on.

        A batch of prompts replaces an empty running batch, and with it what is known of its room.
        """
        last = self._last
        if last is not None and last.chunks:
            requests = last.requests
            goes_on = {chunk.request for chunk in last.chunks if not chunk.last}
            kept = [r for r in requests if not r.finished and r not in goes_on]
            if len(kept) < len(requests):
                self._full = False
            if kept and not self.running:
                self.running, self._full = kept, False
            else:
                self.running += kept
        before = len(self.running)
        self.running = [request for request in self.running if not request.finished]
        if len(self.running) < before:
            self._full = False

    def _prefill_batch(self) -> Batch | None:
        running, options = self.running, self.options
        if not running:
            self._full = False
        if self.cut is None:
            if self._full or not self.waiting:
                return None
            if len(running) >= options.max_requests:
                self._full = True
                return None
        admitted = PrefillPass(
            running,
            available_tokens=self.available_tokens,
            ratio=self.new_token_ratio,
            batch_tokens=options.batch_tokens,
            chunk_tokens=options.chunk_tokens,
            page_tokens=options.page_tokens,
            decode_tokens=len(running) if options.mixed else 0,
        )
        if self.cut is not None:
            admitted.go_on(self.cut)
        self._admit_waiting(admitted)
        self.cut = admitted.cut
        if not admitted.chunks:
            return None
        for chunk in admitted.chunks:
            chunk.request.retracted = False
            self._memory.grow(chunk.request, chunk.new_tokens)
        decode = self._mixed_in() if options.mixed and running else ()
        return Batch(tuple(admitted.chunks), decode, sum([r.cached for r in decode]))

    def _admit_waiting(self, admitted: PrefillPass) -> None:
        room = self.options.max_requests - len(self.running)
        while self.waiting and admitted.verdict() is not Verdict.SPENT:
            if len(admitted.chunks) >= room:
                self._full = True
            if self._full:
                return
            before = len(admitted.chunks)
            alone = not (before or self.running or self._uncommitted or admitted.cut)
            holds = self._memory.look_up(self.waiting[0])
            verdict = admitted.admit(self.waiting[0], alone=alone, holds=holds)
            if len(admitted.chunks) > before:
                self._memory.admit(self.waiting.popleft())
            if verdict is Verdict.NO_ROOM:
                self._full = bool(admitted.chunks or self.running)
            if verdict is not Verdict.CONTINUE:
                return

    def _mixed_in(self) -> Sequence[EngineRequest]:
        """The running requests, if their tokens fit beside the prompts; else they sit it out."""
        self._leave_out(self._ending())
        if not self.running or not self._memory.fits(self.running):
            return ()
        decode, self.running = tuple(self.running), []
        for request in decode:
            self._memory.grow(request, 1)
        return decode

    def _decode_batch(self) -> Batch | None:
        before = len(self.running)
        ending = self._ending()
        self._leave_out(ending)
        if not self.running:
            return None
        if self._memory.fits(self.running):
            self.new_token_ratio = max(self.new_token_ratio - RATIO_STEP, LEAST_RATIO)
        elif ending:
            return None  # their room is free as soon as they are committed
        else:
            self._retract()
        if len(self.running) < before:
            self._full = False
        decode = tuple(self.running)
        for request in decode:
            self._memory.grow(request, 1)
        return Batch((), decode, sum([r.cached for r in decode]))

    def _ending(self) -> set[EngineRequest]:
        """Requests that end by their length with the batch that is not committed yet."""
        if not self._uncommitted:
            return set()
        computing = set(self._uncommitted[0].requests)
        return {r for r in self.running if r in computing and r.produced + 1 >= r.max_tokens}

    def _leave_out(self, ending: set[EngineRequest]) -> None:
        if ending:
            self.running = [request for request in self.running if request not in ending]
            self._full = False

    def _retract(self) -> None:
        """Take the KV cache from some, one at least, until the next tokens of the others fit."""
        kept = sorted(self.running, key=lambda r: (r.produced, -r.prompt_tokens), reverse=True)
        retracted: list[EngineRequest] = []
        while len(kept) > 1 and not (retracted and self._memory.fits(kept)):
            request = kept.pop()
            self._memory.release(request)
            request.cached, request.retracted = 0, True
            retracted.append(request)
        produced = sum(request.produced for request in kept)
        most = sum(request.max_tokens for request in kept)
        self.new_token_ratio = min((produced + RETRACTED_STEPS * len(kept)) / (most + 1), 1.0)
        self.retractions += len(retracted)
        self.waiting.extend(retracted)
        self.running = kept
