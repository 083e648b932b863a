"""LeastMemory: join the decode instance whose KV cache will be the emptiest.

Where memory is what runs out, balancing requests is not enough: prompts differ by orders of
magnitude, and the instance that fills first makes requests wait while the other has room. (Joining
the shortest queue, measured in the resource that is short.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.planning import GROWTH_TOKENS, memory_tokens
from voltana.routers.least_loaded import LeastLoaded
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class LeastMemory:
    """Satisfies `voltana.ports.Router`; keeps no state.

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

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if any(candidate.role is not Role.DECODE for candidate in pool):
            return self._fallback.route(request, pool)
        room = self._tokens_per_request
        return min((memory_tokens(candidate, room), candidate.instance) for candidate in pool)[1]

    def __repr__(self) -> str:
        return f"LeastMemory({self._tokens_per_request:g})"
