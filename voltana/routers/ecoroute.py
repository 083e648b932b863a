"""EcoRoute: a what-if over the decode instances, with one request more.

After VoltanaLLM's EcoRoute (arXiv 2509.04827). The state of an instance is its batch and its KV
tokens; the state space is cut by boundaries at which the clock has to rise or a new batch tile
begins. A request goes where it crosses none. Where no boundary is near, or nothing is known, the
fallback routes: round robin, as published. Waking an idle instance can be made a boundary too,
which the published system does not do.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.errors import invalid
from voltana.planning import (
    candidate_load,
    load_with,
    memory_tokens,
    planned_clock_mhz,
    planned_within,
)
from voltana.ports import needs_of
from voltana.routers.round_robin import RoundRobin
from voltana.values import Need
from voltana_actuatord.quick import quickly_made

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Deferral, Load, Request


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class _WhatIf:
    """What one request more does to an instance.

    Attributes:
        wakes: Whether the instance is idle now.
        clock_mhz: Clock that it needs then; inf if none is safe.
        unsafe: Whether no clock is safe then.
        rise_mhz: How much its clock has to rise; 0 below what counts.
        new_tile: Whether its batch begins a new tile.
        requests: Its requests then.
    """

    wakes: bool
    clock_mhz: float
    unsafe: bool
    rise_mhz: float
    new_tile: bool
    requests: int

    @property
    def harmless(self) -> bool:
        return not (self.unsafe or self.new_tile or self.rise_mhz > 0)

    @property
    def harm(self) -> tuple[bool, float, bool, int]:
        return self.unsafe, self.rise_mhz, self.new_tile, self.requests


class EcoRoute:
    """Satisfies `voltana.ports.Router`; keeps no state but its fallback's.

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

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its fallback's; the KV cache where idle instances are left asleep."""
        own = {Need.LATENCY, Need.LEVELS, Need.BUDGET}
        if self._wake_share > 0:
            own.add(Need.KV_CAPACITY)
        return needs_of(self._fallback) | own

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if len(pool) == 1 or not all(self._known(c) for c in pool):
            return self._fallback.route(request, pool)
        outcomes = [self._what_if(request, c) for c in pool]
        harmless = [(c, what) for c, what in zip(pool, outcomes, strict=True) if what.harmless]
        if harmless:
            asleep = any(what.wakes for what in outcomes)
            awake = [
                candidate
                for candidate, what in harmless
                if self._serves_awake(candidate, what) and not (asleep and self._full(candidate))
            ]
            return self._fallback.route(request, awake or [c for c, _ in harmless])
        if all(what.unsafe for what in outcomes):
            return self._fallback.route(request, pool)
        least = min(range(len(pool)), key=lambda i: (outcomes[i].harm, pool[i].instance))
        return pool[least].instance

    def _known(self, candidate: Candidate) -> bool:
        return (
            candidate.predictor is not None
            and len(candidate.levels_mhz) > 0
            and candidate.state_age_s <= self._max_age_s
        )

    def _serves_awake(self, candidate: Candidate, what: _WhatIf) -> bool:
        return not what.wakes and what.clock_mhz <= self._wake_share * candidate.levels_mhz[-1]

    def _full(self, candidate: Candidate) -> bool:
        return memory_tokens(candidate) > self._wake_share * candidate.kv_capacity_tokens

    def _what_if(self, request: Request, candidate: Candidate) -> _WhatIf:
        now = candidate_load(candidate)
        after = load_with(now, request, candidate.role)
        after_mhz = planned_clock_mhz(candidate, after)
        # An idle instance may be at any clock, so none has to rise; nor has one to the lowest.
        wakes = not (now.prefill_tokens or now.decode_requests or candidate.in_flight)
        # An instance that no clock can save runs at its fastest one, and gets slower.
        most_mhz = min(after_mhz, candidate.levels_mhz[-1])
        return _WhatIf(
            wakes=wakes,
            clock_mhz=after_mhz,
            unsafe=after_mhz == math.inf,
            rise_mhz=0.0 if wakes else self._rise_mhz(candidate, now, most_mhz),
            new_tile=self._tiles(after.decode_requests) > self._tiles(now.decode_requests),
            requests=after.decode_requests,
        )

    def _rise_mhz(self, candidate: Candidate, now: Load, most_mhz: float) -> float:
        """How much the clock rises from that of `now` to `most_mhz`; 0 below what counts."""
        levels = candidate.levels_mhz
        # Levels from which the rise would count; most often the instance is at none of them.
        far = bisect_left(levels, most_mhz - self._boundary_mhz)
        if not far or not planned_within(candidate, now, levels[far - 1]):
            return 0.0
        return most_mhz - planned_clock_mhz(candidate, now)

    def _tiles(self, requests: int) -> int:
        # The first tile is there from the start: an empty instance crosses no boundary.
        return max(1, -(-requests // self._tile))

    def __repr__(self) -> str:
        return (
            f"EcoRoute(fallback={self._fallback!r}, tile={self._tile}, "
            f"boundary_mhz={self._boundary_mhz:g}, wake_share={self._wake_share:g})"
        )
