"""The KV cache of one engine: pages of the requests in it, and prompts of earlier ones.

Prompts are looked up when a request is looked at for admission, held while it is in the engine,
kept as they are computed, and given up when room is needed, longest unused first
(`voltana.prefix_cache`), as SGLang does (0.5.23, ``init_next_round_input``, ``add_one_req``,
``checkpoint_kv_cache``, ``release_kv_cache``). What nobody holds counts as free. Answers are kept
behind their prompts and take room like these, but nobody finds them: a trace does not say what of
them comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.colocated.request import Chunk, EngineRequest


class KvMemory:
    """Pages.

    Args:
        capacity_tokens: Tokens that it holds.
        page_tokens: Tokens of a page.
        keeps: Whether prompts are kept for later ones.
    """

    def __init__(self, capacity_tokens: int, page_tokens: int, *, keeps: bool = False) -> None:
        self._page = page_tokens
        self._pages = capacity_tokens // page_tokens
        self._used_pages = 0  # of requests, beyond what they share
        self._cache = PrefixCache(page_tokens) if keeps else None

    @property
    def available_tokens(self) -> int:
        """Tokens that are free, or kept for nobody in the engine."""
        held = 0 if self._cache is None else self._cache.held_tokens
        return (self._pages - self._used_pages) * self._page - held

    def expect(self, request: EngineRequest) -> None:
        """Note in its `cached` what a request that waits would find now."""
        request.cached = self._recorded(request)
        if self._cache is not None and request.prefix is not None:
            request.cached = self._cache.peek(request.prefix, _limit(request))

    def look_up(self, request: EngineRequest) -> int:
        """Note in its `cached` what a request would find if it were admitted now.

        Returns:
            Tokens that would not be available any more, beside those that it computes.
        """
        if self._cache is None or request.prefix is None:
            request.cached = self._recorded(request)
            return self._pages_of(request.cached) * self._page
        run = self._cache.match(request.prefix, _limit(request))
        request.cached = run.end
        return self._cache.unheld_tokens(run)

    def admit(self, request: EngineRequest) -> None:
        """Hold what was looked up."""
        if self._cache is not None and request.prefix is not None:
            request.run = self._cache.match(request.prefix, request.cached)
            self._cache.lock(request.run)
        self._used_pages += self._own_pages(request)
        if not request.produced:
            request.found = request.cached

    def grow(self, request: EngineRequest, tokens: int) -> None:
        """A request in the engine takes so many tokens more."""
        before = self._own_pages(request)
        request.cached += tokens
        self._used_pages += self._own_pages(request) - before
        if self._cache is not None:
            short = self._cache.tokens - (self._pages - self._used_pages) * self._page
            if short > 0:
                self._cache.evict(short)

    def computed(self, chunk: Chunk) -> None:
        """A part of a prompt can be found from now on."""
        request = chunk.request
        if self._cache is None or request.prefix is None or request.run is None:
            return
        done = min(chunk.done_tokens + chunk.new_tokens, request.prompt_tokens)
        before, run = self._own_pages(request), self._cache.insert(request.prefix, done)
        self._cache.lock(run)
        self._cache.unlock(request.run)
        request.run = run
        self._used_pages += self._own_pages(request) - before

    def release(self, request: EngineRequest) -> None:
        """A request leaves the engine, or loses what it has there."""
        self._used_pages -= self._own_pages(request)
        if self._cache is not None and request.run is not None:
            self._cache.unlock(request.run)
            if request.finished:  # no token follows the last one, so that it was not computed
                known = request.prompt_tokens + request.produced - 1
                self._cache.append(request.run, known - request.run.end)
        request.run = None

    def fits(self, requests: Sequence[EngineRequest]) -> bool:
        """Whether a token more of each fits."""
        if self._page == 1:
            return len(requests) <= self.available_tokens
        pages = sum(request.cached % self._page == 0 for request in requests)
        return pages * self._page <= self.available_tokens

    def _recorded(self, request: EngineRequest) -> int:
        """What the trace says was cached, taken at its word."""
        return min(request.recorded, _limit(request))

    def _own_pages(self, request: EngineRequest) -> int:
        return self._pages_of(request.cached - request.shared)

    def _pages_of(self, tokens: int) -> int:
        return -(-tokens // self._page)


def _limit(request: EngineRequest) -> int:
    """Of a prompt, what may be found: the last token that is computed gives the next one."""
    return min(request.prompt_tokens, request.prompt_tokens + request.produced - 1)
