"""Clock-aware what-if decode routing, as a second policy of the published code v0.1 does it.

Facts after VoltanaLLM's released router (arXiv 2509.04827, September 2025): it compares the clock
that its tables predict for an instance now with the one after the request has joined and every
request has grown by 50 tokens, and prefers instances whose clock does not rise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.routers.tile_aware import TileAware
from voltana.values import Load, Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts
    from voltana.values import Candidate, FloatArray, Request

TOKENS_AHEAD = 50
"""Growth of each running request that the what-if assumes."""

TOKENS_NOW = 2
"""Growth of each running request since the last report that is assumed."""


class WhatIfV01:
    """Satisfies `voltana.ports.Router`.

    While no instance has a full tile it routes as `TileAware` does. Then instances whose clock
    stays come first, the faster of them before the slower; of those whose clock rises, or is at the
    fastest level already, the lowest new clock. Fewer tiles and then a fuller tile break ties.
    Where the clocks of first and last are more than a level apart, the lowest clock goes first.

    Args:
        tile: Requests of a tile.
    """

    needs = frozenset({Need.LATENCY, Need.LEVELS, Need.BUDGET})

    def __init__(self, tile: int = 128) -> None:
        self._tile = tile
        self._tile_aware = TileAware(tile)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if max(c.in_flight for c in pool) < self._tile or not all(_predictable(c) for c in pool):
            return self._tile_aware.route(request, pool)
        ranked = [(*self._signed_level(request, c, c.predictor), c) for c in pool if c.predictor]
        by_clock = sorted(ranked, key=lambda r: (r[1], r[0] > 0, *self._fill(r[2])))
        if by_clock[-1][1] - by_clock[0][1] > 1:
            return by_clock[0][2].instance
        return min(ranked, key=lambda r: (r[0], *self._fill(r[2])))[2].instance

    def _signed_level(
        self, request: Request, candidate: Candidate, predictor: Forecasts
    ) -> tuple[int, int]:
        """Rank of the instance, below 0 where its clock stays, and the level that it stands for."""
        levels = np.array(candidate.levels_mhz, dtype=np.float64)
        batch, tokens = candidate.in_flight, candidate.state.kv_tokens
        ahead = tokens + request.prompt_tokens + TOKENS_AHEAD * batch
        budget_s = candidate.budget_s
        now = _level(predictor, batch, tokens + TOKENS_NOW * batch, levels, budget_s)
        after = _level(predictor, batch + 1, ahead, levels, budget_s)
        top = len(levels) - 1
        if after > now or after == top:
            return after + 1, after
        return -(now + 1), now

    def _fill(self, candidate: Candidate) -> tuple[int, int]:
        return -(-candidate.in_flight // self._tile), -candidate.in_flight

    def __repr__(self) -> str:
        return f"WhatIfV01({self._tile})"


def _predictable(candidate: Candidate) -> bool:
    return candidate.predictor is not None and len(candidate.levels_mhz) > 0


def _level(
    predictor: Forecasts, batch: int, tokens: int, levels: FloatArray, budget_s: float
) -> int:
    """Index of the lowest level whose mean fits the budget, else of the fastest."""
    fits = predictor.forecast(Load.decode(batch, tokens), levels).mean_s <= budget_s
    index = int(fits.argmax())
    return index if fits[index] else len(levels) - 1
