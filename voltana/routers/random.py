"""Random choice, as the published system routes its prefill leg."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class RandomRouter:
    """Satisfies `voltana.ports.Router`.

    Args:
        seed: Two routers with one seed make the same choices.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = Random(seed)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:  # noqa: ARG002  (the port's signature)
        """See `voltana.ports.Router.route`."""
        return candidates[self._random.randrange(len(candidates))].instance

    def __repr__(self) -> str:
        return f"RandomRouter({self._seed})"
