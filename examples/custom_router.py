"""A router of one's own: fewest requests in flight, and of those the lowest clock.

The class needs no base class: `route` is all that a router is. Simulator, router and steering proxy
take it alike, from this folder:

    voltana check custom_router:LowestClock
    voltana simulate --policy static-max --policy custom_router:LowestClock
    voltana-sglang router --prefill URL --decode URL --decode-router custom_router:LowestClock
"""

from collections.abc import Sequence

from voltana.values import Candidate, Request


class LowestClock:
    """An instance that may run slowly has slack; what is in flight keeps a burst from herding."""

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:  # noqa: ARG002
        """Name one of the candidates; the first name where all else is equal."""
        return min(candidates, key=lambda c: (c.in_flight, c.state.clock_mhz, c.instance)).instance
