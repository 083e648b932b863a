"""MissedPrice: what a missed token costs, as slack in the plan, until the target is met.

The dual of "as little energy as possible, and at most a share alpha of the tokens late": the price
rises while more are late and falls while fewer are (dual ascent: S. Boyd, L. Vandenberghe, "Convex
Optimization", 2004, 5.4; as a controller: D. P. Palomar, M. Chiang, IEEE JSAC 24, 2006). A price on
misses makes a plan serve more than what was measured: decode a larger demand, by a share of it, and
prefill a larger burst, by standard deviations (`caution`).
"""

from __future__ import annotations

import math

RECENT_S = 5.0
"""Time constant over which the share of late tokens is taken."""

LASTS_S = 1.0
"""For so long after what was noted last the price moves by it. Silence is no evidence: a burst that
ended late would raise the price as long as nothing comes, and one that ended well forget it."""

FALL_PER_S = 0.002
"""Slack on the demand given back per second while nothing is late."""

MOST_RISE = 10.0
"""The price rises at most this many times as fast as it falls."""

MOST = 0.3
"""Beyond it more slack means the fastest clock anyway."""


class MissedPrice:
    """Slack in a plan.

    Args:
        alpha: Share of the tokens that may be late.
        first: Slack to start from.
        fall_per_s: Slack given back per second while nothing is late.
        most: Greatest slack.

    Attributes:
        slack: From 0 to `most`; by default the share by which a demand is taken larger.
    """

    def __init__(
        self,
        alpha: float,
        first: float = 0.02,
        *,
        fall_per_s: float = FALL_PER_S,
        most: float = MOST,
    ) -> None:
        self._alpha, self._fall_per_s, self._most = alpha, fall_per_s, most
        self.slack = first
        self._late = self._tokens = 0.0
        self._at_s, self._noted_s, self._noted = math.nan, -math.inf, False

    def note(self, tokens: int, *, late: float) -> None:
        """Note an iteration: whether it was late, or how close it came, from 0 to 1.

        What is neither was measured by a clock that cannot be trusted, and counts as late.
        """
        self._noted = True
        self._tokens += tokens
        self._late += tokens * (late if 0.0 <= late <= 1.0 else 1.0)

    def step(self, now_s: float) -> None:
        """Move the price by what was noted since the last step."""
        gap_s = now_s - self._at_s
        self._at_s = now_s
        if self._noted:
            self._noted_s, self._noted = now_s, False
        if not gap_s > 0.0 or not self._tokens:
            return
        if gap_s < RECENT_S and now_s - self._noted_s < LASTS_S:
            excess = (self._late / self._tokens - self._alpha) / self._alpha
            moved = self.slack + self._fall_per_s * min(excess, MOST_RISE) * gap_s
            self.slack = min(max(moved, 0.0), self._most)
        kept = math.exp(-gap_s / RECENT_S)
        self._late *= kept
        self._tokens *= kept
