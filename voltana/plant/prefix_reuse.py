"""What a prefill instance need not compute, for its KV memory has it from earlier prompts.

Prompts are looked up when their prefill begins, kept chunk by chunk as they are computed, and held
until they are handed on; what nobody holds goes when room is needed, longest unused first
(`voltana.prefix_cache`). The last token of a prompt is always computed: the first answer follows
from it. A trace that says itself how many tokens were cached is taken at its word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from voltana.plant.job import Job
    from voltana.prefix_cache import Run


class _Held:
    """What a job in flight holds: a run of the cache, and tokens of its own beside it."""

    __slots__ = ("own_tokens", "run")

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self.own_tokens = 0


class PrefixReuse:
    """The KV memory of one prefill instance.

    Args:
        capacity_tokens: Tokens that it holds.
        page_tokens: Tokens of a page.
    """

    def __init__(self, capacity_tokens: int, page_tokens: int = 1) -> None:
        self._capacity_tokens = capacity_tokens
        self._cache = PrefixCache(page_tokens)
        self._held: dict[int, _Held] = {}
        self._own_tokens = 0

    def expected(self, job: Job) -> int:
        """Prompt tokens of a job that waits that it would find now."""
        if job.prefix is None:
            return min(job.cached_tokens, job.prompt_tokens - 1)
        return self._cache.peek(job.prefix, job.prompt_tokens - 1)

    def begin(self, job: Job) -> int:
        """The prefill of a job begins, unless it has; its `prefilled_tokens` are what is found.

        Returns:
            Tokens that it has to compute more than was expected; negative if fewer.
        """
        if job.index in self._held:
            return 0
        run, found = None, self.expected(job)
        if job.prefix is not None:
            run = self._cache.match(job.prefix, job.prompt_tokens - 1)
            self._cache.lock(run)
            found = run.end
        self._held[job.index] = _Held(run)
        more = job.prefilled_tokens - found
        job.prefilled_tokens = job.cached_tokens = found
        return more

    def make_room(self, job: Job, tokens: int) -> None:
        """A job is about to compute so many tokens; where all is held, they find room all the same.

        The plant's prefill is never blocked by its memory: prompts leave it within iterations.
        """
        self._held[job.index].own_tokens += tokens
        self._own_tokens += tokens
        short = self._cache.tokens + self._own_tokens - self._capacity_tokens
        if short > 0:
            self._cache.evict(short)

    def computed(self, job: Job) -> None:
        """What is computed of a prompt can be found from now on."""
        held = self._held[job.index]
        if job.prefix is None or held.run is None:
            return
        run = self._cache.insert(job.prefix, job.prefilled_tokens)
        self._cache.lock(run)
        self._cache.unlock(held.run)
        held.run = run
        self._own(held, job.prefilled_tokens - run.end)

    def release(self, job: Job) -> None:
        """A job is handed on, or given up."""
        held = self._held.pop(job.index, None)
        if held is None:
            return
        self._own(held, 0)
        if held.run is not None:
            self._cache.unlock(held.run)

    def _own(self, held: _Held, tokens: int) -> None:
        self._own_tokens += tokens - held.own_tokens
        held.own_tokens = tokens
