"""LeastMemory: join the decode instance whose KV cache will be the emptiest.

Where memory is what runs out, balancing requests is not enough: prompts differ by orders of
magnitude, and the instance that fills first makes requests wait while the other has room. (Joining
the shortest queue, measured in the resource that is short.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.planning import GROWTH_TOKENS, memory_tokens
from voltana.pool import KeptPool
from voltana.routers.least_loaded import LeastLoaded
from voltana.values.routing import DECODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class LeastMemory:
    """Satisfies `voltana.ports.Router`; remembers what it saw, and nothing that changes a choice.

    On a prefill leg `LeastLoaded` routes. Ties go to the first name.

    Args:
        tokens_per_request: Room that a request takes or keeps on top of its context: what it may
            still produce, and what the engine reserves for it.

    Raises:
        ConfigError: If that is negative.
    """

    def __init__(self, tokens_per_request: float = GROWTH_TOKENS) -> None:
        if not tokens_per_request >= 0:
            raise invalid("tokens_per_request", tokens_per_request, "0 or more", "600 is usual.")
        self._tokens_per_request = tokens_per_request
        self._fallback = LeastLoaded()
        self._kept = KeptPool(())

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = self._kept.of(candidates)
        tokens = pool.column(self._memory_tokens)
        if math.inf in tokens:
            return self._fallback.route(request, pool)
        return pool.first_of_least(tokens)

    def _memory_tokens(self, candidate: Candidate) -> float:
        """What it needs for all that was sent there; inf on another leg than decode."""
        if candidate.role is not DECODE:
            return math.inf
        return memory_tokens(candidate, self._tokens_per_request)

    def __repr__(self) -> str:
        return f"LeastMemory({self._tokens_per_request:g})"
