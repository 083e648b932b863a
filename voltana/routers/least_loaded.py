"""Join the instance with the least pending work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class LeastLoaded:
    """Satisfies `voltana.ports.Router`; keeps no state.

    Work of a prefill instance is prompt tokens, since a prompt of 8k costs more than ten of 100.
    That of a decode instance is requests: each of them makes every iteration longer until it ends.
    What is in flight towards an instance counts, or a whole burst would join the same one. Ties
    go to the first name.
    """

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:  # noqa: ARG002  (the port's signature)
        """See `voltana.ports.Router.route`."""
        return min(candidates, key=_work).instance

    def __repr__(self) -> str:
        return "LeastLoaded()"


def _work(candidate: Candidate) -> tuple[int, str]:
    state, reserved = candidate.state, candidate.reserved
    if candidate.role is Role.PREFILL:
        return state.queued_tokens + reserved.prompt_tokens, candidate.instance
    reported = state.running_requests + state.queued_requests + reserved.requests
    return max(reported, candidate.in_flight), candidate.instance
