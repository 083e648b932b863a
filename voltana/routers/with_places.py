"""Requests go where one of the places of an engine is free, whatever else a router weighs.

An engine runs so many requests at once. One that is sent where all places are taken waits for one
of those to end, while another instance may have a place for it at once: taken in turn, instances
are not full in turn, as answers are of any length. Where all are, the shortest line for its places
is joined (R. R. Weber, "On the optimal assignment of customers to parallel servers", Journal of
Applied Probability 15, 1978).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.planning import requests_of
from voltana.routers.wrapper import RouterWrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Deferral, Request


class WithPlaces(RouterWrapper):
    """Satisfies `voltana.ports.Router`.

    Args:
        inner: Routes among the instances that have a place, or the shortest lines for one.
    """

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        taken = [requests_of(one) / one.max_running_requests for one in candidates]
        most = max(min(taken), _ALL_BUT_FULL)
        if max(taken) <= most:  # mostly
            return self._inner.route(request, candidates)
        free = [one for one, share in zip(candidates, taken, strict=True) if share <= most]
        return self._inner.route(request, free)

    def __repr__(self) -> str:
        return f"WithPlaces({self._inner!r})"


_ALL_BUT_FULL = 1.0 - 1e-9
"""Share of the places that may be taken where one is left."""
