"""Tile-aware decode routing, as the published system's code v0.1 does it.

Facts after VoltanaLLM's released router (arXiv 2509.04827, September 2025), which uses neither its
predictor nor the SLO: a decode iteration gets slower in stairs, at 129 requests, 257, and so on, so
partly full tiles are filled before a new one is begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import Candidate, Request


class TileAware:
    """Satisfies `voltana.ports.Router`; looks at requests in flight since their arrival.

    While no instance has a full tile: the lowest measured clock, then the fewest requests. Else:
    the fewest tiles, then the fullest of them, skipping those whose tiles are exactly full; if all
    are, the first of that order. Ties go to the instance that is named first.

    Args:
        tile: Requests of a tile.

    Raises:
        ConfigError: If that is below 1.
    """

    def __init__(self, tile: int = 128) -> None:
        if tile < 1:
            raise invalid("tile", tile, "1 or more", "128 is the tile of an A100.")
        self._tile = tile

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:  # noqa: ARG002  (the port's signature)
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if max(c.in_flight for c in pool) < self._tile:
            return min(pool, key=lambda c: (c.state.clock_mhz, c.in_flight)).instance
        pool.sort(key=lambda c: (-(-c.in_flight // self._tile), -c.in_flight))
        for candidate in pool:
            if candidate.in_flight == 0 or candidate.in_flight % self._tile:
                return candidate.instance
        return pool[0].instance

    def __repr__(self) -> str:
        return f"TileAware({self._tile})"
