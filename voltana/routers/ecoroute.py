"""EcoRoute: a what-if over the decode instances, with one request more.

After VoltanaLLM's EcoRoute (arXiv 2509.04827). The state of an instance is its batch and its KV
tokens; the state space is cut by boundaries at which the clock has to rise or a new batch tile
begins. A request goes where it crosses none. Where no boundary is near, or nothing is known, the
fallback routes: round robin, as published. Waking an idle instance can be made a boundary too,
which the published system does not do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from voltana.errors import invalid
from voltana.planning import upcoming
from voltana.pool import MOST_KNOWN, NAME, KeptPool
from voltana.ports import needs_of
from voltana.routers.prospect import Prospect, is_idle
from voltana.routers.round_robin import RoundRobin
from voltana.values import Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.planning import Upcoming
    from voltana.ports import Router
    from voltana.values import Candidate, Deferral, Request


class EcoRoute:
    """Satisfies `voltana.ports.Router`; what changes its choices is its fallback's state alone.

    Args:
        fallback: Routes where no boundary is near, and among those that cross none.
        tile: Requests of a batch tile.
        boundary_mhz: Rises up to this are no boundary. Levels that lie close together would
            otherwise put one at every few requests.
        wake_share: An idle instance is woken only where the busy ones would cross a boundary, or
            need more than this share of their fastest clock, or of their KV cache: idle, it draws a
            third of the power. 0 lets idle instances take part as any other.
        max_age_s: Reports older than this are stale, and nothing is planned on them.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        fallback: Router | None = None,
        *,
        tile: int = 128,
        boundary_mhz: float = 0.0,
        wake_share: float = 0.0,
        max_age_s: float = 0.1,
    ) -> None:
        if tile < 1:
            raise invalid("tile", tile, "1 or more", "128 is the tile of an A100.")
        if not boundary_mhz >= 0:
            raise invalid("boundary_mhz", boundary_mhz, "0 or more", "0 heeds every rise.")
        if not 0 <= wake_share <= 1:
            raise invalid("wake_share", wake_share, "0 to 1", "0 keeps nobody idle.")
        if not max_age_s >= 0:
            raise invalid("max_age_s", max_age_s, "0 s or more", "0.1 s is usual.")
        self._fallback = fallback or RoundRobin()
        self._tile = tile
        self._boundary_mhz = boundary_mhz
        self._wake_share = wake_share
        self._max_age_s = max_age_s
        self._kept = KeptPool(self.needs)
        self._levels: dict[str, int] = {}  # that were found last: where the next search begins

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its fallback's; the KV cache where idle instances are left asleep."""
        own = {Need.LATENCY, Need.LEVELS, Need.BUDGET}
        if self._wake_share > 0:
            own.add(Need.KV_CAPACITY)
        return needs_of(self._fallback) | own

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = self._kept.of(candidates)
        if len(pool) == 1 or not pool.fresh(self._max_age_s):
            return self._fallback.route(request, pool)
        prospects = pool.column(self._prospect, on=upcoming)
        if not all(prospects):
            return self._fallback.route(request, pool)
        known, prompt = cast("list[Prospect]", prospects), request.prompt_tokens
        chosen = [
            place
            for place, prospect in enumerate(known)
            if prompt <= prospect.calm_tokens or (prospect.asks and prospect.stays_calm(request))
        ]
        if chosen and 0 in pool.in_flight() and True in pool.column(is_idle, on=upcoming):
            chosen = [place for place in chosen if not known[place].full]
        if len(chosen) == len(pool):
            return self._fallback.route(request, pool)
        chosen = chosen or [
            place for place, prospect in enumerate(known) if prospect.is_harmless(request)
        ]
        if chosen or not any(prospect.is_safe(request) for prospect in known):
            return self._fallback.route(request, pool.take(chosen) if chosen else pool)
        harm = [prospect.harm(request) for prospect in known]
        return min(zip(harm, pool.column(NAME), strict=True))[1]

    def _prospect(self, candidate: Candidate, comes: Upcoming) -> Prospect | None:
        """What one request more does to an instance; None where that is not known."""
        if candidate.predictor is None or not candidate.levels_mhz:
            return None
        name, levels = candidate.instance, self._levels
        if len(levels) > MOST_KNOWN:  # instances have come and gone
            levels.clear()
        guess = levels.get(name, 0)
        made = Prospect(
            candidate, comes, self._tile, self._boundary_mhz, self._wake_share, guess=guess
        )
        levels[name] = made.level
        return made

    def __repr__(self) -> str:
        return (
            f"EcoRoute(fallback={self._fallback!r}, tile={self._tile}, "
            f"boundary_mhz={self._boundary_mhz:g}, wake_share={self._wake_share:g})"
        )
