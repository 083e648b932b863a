"""MissedPrice: what a missed token costs, as slack on the demand, until the target is met.

The dual of "as little energy as possible, and at most a share alpha of the tokens late": the price
rises while more are late and falls while fewer are (dual ascent: S. Boyd, L. Vandenberghe, "Convex
Optimization", 2004, 5.4; as a controller: D. P. Palomar, M. Chiang, IEEE JSAC 24, 2006). A price on
misses makes the plan serve a demand larger than the measured one, which is the form it takes here.
"""

from __future__ import annotations

import math

RECENT_S = 5.0
"""Time constant over which the share of late tokens is taken."""

FALL_PER_S = 0.002
"""Slack given back per second while nothing is late."""

MOST_RISE = 10.0
"""The price rises at most this many times as fast as it falls."""

MOST = 0.3
"""Beyond it more slack means the fastest clock anyway."""


class MissedPrice:
    """Slack on the demand.

    Args:
        alpha: Share of the tokens that may be late.
        first: Slack to start from.

    Attributes:
        slack: Share by which the demand is taken larger than measured.
    """

    def __init__(self, alpha: float, first: float = 0.02) -> None:
        self._alpha = alpha
        self.slack = first
        self._late = self._tokens = 0.0
        self._at_s = math.nan

    def note(self, tokens: int, *, late: bool) -> None:
        """Note an iteration and whether it took longer than its threshold."""
        self._tokens += tokens
        if late:
            self._late += tokens

    def step(self, now_s: float) -> None:
        """Move the price by what was noted since the last step."""
        gap_s = now_s - self._at_s
        self._at_s = now_s
        if not 0.0 < gap_s < RECENT_S or not self._tokens:
            return
        excess = (self._late / self._tokens - self._alpha) / self._alpha
        moved = self.slack + FALL_PER_S * min(excess, MOST_RISE) * gap_s
        self.slack = min(max(moved, 0.0), MOST)
        kept = math.exp(-gap_s / RECENT_S)
        self._late *= kept
        self._tokens *= kept
