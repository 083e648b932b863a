"""Prompts go where their beginning was computed before, as far as the load there allows.

Weighs tokens that need not be computed against tokens that are pending, as cache-aware routers of
engines do (SGLang's ``sgl-router``, ``cache_aware``; R. Qin et al., "Mooncake", FAST 2025, section
6.1). What an instance has is not reported: the router keeps, of each, the prompts that it sent
there, in a cache of that instance's size that evicts as the engine's does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.prefix_cache import PrefixCache
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.wrapper import RouterWrapper
from voltana.values import Deferral, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Prefix, Request

UNKNOWN_CAPACITY_TOKENS = 1_000_000
"""What an instance is taken to keep that does not say how large its KV cache is."""


class PrefixAffinity(RouterWrapper):
    """Satisfies `voltana.ports.Router`; remembers what it sent where.

    Another router chooses first. An instance that has more of the prompt takes its place if what
    that saves, times `weight`, exceeds what is pending there more; among several the one where the
    difference is largest. With a weight of 1 the first token comes no later, as far as pending
    tokens tell. Requests that say nothing of their prefix go where the other router sends them.

    Args:
        inner: Chooses where prompts share nothing.
        weight: Pending tokens that a token found in a cache is worth; 0 leaves all to `inner`.
        page_tokens: Tokens of a page of the instances' KV caches.

    Raises:
        ConfigError: If the weight is negative or not finite.
    """

    def __init__(
        self, inner: Router | None = None, *, weight: float = 1.0, page_tokens: int = 1
    ) -> None:
        if not 0 <= weight < math.inf:
            raise invalid("weight", weight, "at least 0 and finite", "1 weighs tokens alike.")
        super().__init__(LeastLoaded() if inner is None else inner)
        self._weight = weight
        self._page_tokens = page_tokens
        self._kept: dict[str, PrefixCache] = {}

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        chosen = self._inner.route(request, candidates)
        prefix = request.prefix
        if isinstance(chosen, Deferral) or prefix is None:
            return chosen
        shown = list(candidates)
        by_name = {candidate.instance: candidate for candidate in shown}
        if chosen in by_name:
            chosen = self._weigh(request, prefix, shown, by_name[chosen])
            self._sent(by_name[chosen], prefix, request.prompt_tokens)
            self._forget_gone(by_name)
        return chosen

    def _weigh(
        self, request: Request, prefix: Prefix, candidates: Sequence[Candidate], inner: Candidate
    ) -> str:
        limit = request.prompt_tokens - 1
        there, load = self._tokens(inner, prefix, limit), _pending_tokens(inner)
        best, gain = inner.instance, 0.0
        for candidate in candidates:
            found = self._tokens(candidate, prefix, limit)
            if found <= there:
                continue
            more = self._weight * (found - there) - (_pending_tokens(candidate) - load)
            if more > gain:
                best, gain = candidate.instance, more
        return best

    def _tokens(self, candidate: Candidate, prefix: Prefix, limit: int) -> int:
        kept = self._kept.get(candidate.instance)
        return 0 if kept is None else kept.peek(prefix, limit)

    def _sent(self, candidate: Candidate, prefix: Prefix, prompt_tokens: int) -> None:
        kept = self._kept.pop(candidate.instance, None) or PrefixCache(self._page_tokens)
        self._kept[candidate.instance] = kept  # the last that was sent to is the last in order
        kept.insert(prefix, prompt_tokens)
        known = candidate.kv_capacity_tokens < math.inf
        most = candidate.kv_capacity_tokens if known else UNKNOWN_CAPACITY_TOKENS
        if kept.tokens > most:
            kept.evict(kept.tokens - most)

    def _forget_gone(self, shown: Mapping[str, Candidate]) -> None:
        """Forget instances that are no longer shown, once they are as many as those that are.

        Some are not shown for a while, as where they are full, and come back as they were; others
        never do, as where each start of one has a name of its own.
        """
        if len(self._kept) <= len(shown):  # mostly: those that are gone are no more than these
            return
        gone = [name for name in self._kept if name not in shown]
        for name in gone[: max(len(gone) - len(shown), 0)]:
            del self._kept[name]

    def __repr__(self) -> str:
        return f"PrefixAffinity({self._inner!r}, weight={self._weight:g})"


def _pending_tokens(candidate: Candidate) -> int:
    """Tokens that it computes before the next prompt; a decode batch is none of them."""
    queued = 0 if candidate.role is Role.DECODE else candidate.state.queued_tokens
    return queued + candidate.reserved.prompt_tokens
