"""FillUp: prompts share batches on as few instances as keep the deadline; then least pending time.

A batch costs a fixed part (every weight is read once, however few tokens there are), so the same
prompts take less energy in fewer, fuller batches, and an instance without any can idle at its
lowest clock. The busiest instance whose pending work still ends early enough takes the prompt.
Where none does, it goes where the pending work takes the least time, so as load rises this becomes
balancing. (The trade-off of A. Gandhi et al., "AutoScale", ACM TOCS 30, 2012, within a fixed pool.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.planning import candidate_load, load_with, mean_at
from voltana.routers.least_loaded import LeastLoaded
from voltana.values import Need, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class FillUp:
    """Satisfies `voltana.ports.Router`; keeps no state.

    Times are forecast at the lowest level, the clock that the prompts should do with, after what
    the instance's host takes before its scheduler sees a prompt. Where an instance has no predictor
    yet, and on a decode leg, `LeastLoaded` routes: a decode request stays for many iterations, and
    the time of one says little about it. Ties go to the first name.

    Args:
        share: Share of the latency budget that the pending work of an instance may take, the new
            request's included. 0 always balances.

    Raises:
        ConfigError: If that is not in 0 to 1.
    """

    needs = frozenset({Need.LATENCY, Need.LEVELS, Need.BUDGET})

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise invalid("share", share, "0 to 1", "0.5 leaves room for a batch that runs.")
        self._share = share
        self._fallback = LeastLoaded()

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        ranked = [(_pending_s(request, candidate), candidate) for candidate in pool]
        if not all(pending_s < math.inf for pending_s, _ in ranked):
            return self._fallback.route(request, pool)
        early = [
            (-pending_s, candidate.instance)
            for pending_s, candidate in ranked
            if pending_s <= self._share * (candidate.budget_s - request.waited_s)
        ]
        if early:
            return min(early)[1]
        return min((pending_s, candidate.instance) for pending_s, candidate in ranked)[1]

    def __repr__(self) -> str:
        return f"FillUp({self._share:g})"


def _pending_s(request: Request, candidate: Candidate) -> float:
    """Time of what is pending and the request at the lowest level; inf where it does not count."""
    if candidate.role is Role.DECODE or candidate.predictor is None or not candidate.levels_mhz:
        return math.inf
    load = load_with(candidate_load(candidate), request, candidate.role)
    # A host prepares one request after the other: whoever joins waits as long as the oldest has.
    return candidate.reserved_for_s + mean_at(candidate.predictor, load, candidate.levels_mhz[0])
