"""ArrivingWork: how many prompt tokens arrive in a stretch of time, at most, as far as was seen.

A mean over the recent past is too low half of the time, and over a past that has only begun it says
little. Prompts come as by a compound Poisson process, whose sum over a time has the root of the sum
of their squares for its standard deviation (S. M. Ross, "Introduction to Probability Models",
5.4.2). That sum is known without looking at each prompt: a prompt of p tokens attends p (p + 1) / 2
pairs. So there is a quantile both of the mean rate, by its standard error, and of what a burst
brings within any time.
"""

from __future__ import annotations

import math
from statistics import NormalDist


class ArrivingWork:
    """Quantiles of what arrives.

    Args:
        fading_s: Time constant over which it is averaged.
        late_share: Share of the time in which more may arrive.
    """

    __slots__ = ("_at_s", "_deviations", "_fading_s", "_seen_s", "_squares", "_tokens")

    def __init__(self, fading_s: float, late_share: float) -> None:
        self._fading_s = fading_s
        self._deviations = max(NormalDist().inv_cdf(1.0 - late_share), 0.0)
        self._tokens = self._squares = self._seen_s = 0.0
        self._at_s = math.nan

    def note(self, tokens: int, attended_pairs: float, now_s: float) -> None:
        """Note the batch that begins now; its prompts have arrived since the last one."""
        gap_s = now_s - self._at_s
        if gap_s > 0.0:
            kept = math.exp(-gap_s / self._fading_s)
            self._tokens *= kept
            self._squares *= kept
            self._seen_s = kept * self._seen_s + (1.0 - kept) * self._fading_s
        self._at_s = now_s
        self._tokens += tokens
        self._squares += max(2.0 * attended_pairs - tokens, tokens)

    @property
    def tokens_per_s(self) -> float:
        """The rate, by its upper quantile; inf before anything has been seen."""
        if not self._seen_s > 0.0:
            return math.inf
        # Of faded squares: weights w of the sum, w * w of its variance, which is half as much.
        error = math.sqrt(0.5 * self._squares)
        return (self._tokens + self._deviations * error) / self._seen_s

    def burst_tokens(self, within_s: float) -> float:
        """What arrives within a time beyond the rate, by its upper quantile."""
        if not self._seen_s > 0.0:
            return math.inf
        return self._deviations * math.sqrt(self._squares / self._seen_s * within_s)
