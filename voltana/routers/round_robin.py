"""Round robin: each instance in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class RoundRobin:
    """Satisfies `voltana.ports.Router`; its only state is whose turn it is."""

    def __init__(self) -> None:
        self._turn = -1

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:  # noqa: ARG002  (the port's signature)
        """See `voltana.ports.Router.route`."""
        self._turn = (self._turn + 1) % len(candidates)
        return candidates[self._turn].instance

    def __repr__(self) -> str:
        return "RoundRobin()"
