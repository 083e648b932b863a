"""ArrivingWork: how many prompt tokens arrive per second, and how far a stretch of time may differ.

Prompts come as by a compound Poisson process, whose sum over a time has the root of the sum of
their squares for its standard deviation (S. M. Ross, "Introduction to Probability Models", 5.4.2).
That sum is known without looking at each prompt: a prompt of p tokens attends p (p + 1) / 2 pairs.
"""

from __future__ import annotations

import math


class ArrivingWork:
    """Mean and spread of what arrives.

    Args:
        fading_s: Time constant over which both are averaged.
    """

    __slots__ = ("_at_s", "_fading_s", "_seen_s", "_squares", "_tokens")

    def __init__(self, fading_s: float) -> None:
        self._fading_s = fading_s
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
        """The mean rate; inf before anything has been seen."""
        return self._tokens / self._seen_s if self._seen_s > 0.0 else math.inf

    @property
    def deviation_tokens(self) -> float:
        """Standard deviation of what arrives in 1 s; it grows with the root of the time.

        It is inf before anything has been seen.
        """
        return math.sqrt(self._squares / self._seen_s) if self._seen_s > 0.0 else math.inf

    @property
    def relative_error(self) -> float:
        """Standard error of the mean rate as a share of it, at most 1: of what fades with time."""
        if not self._tokens > 0.0:
            return 1.0
        faded = 1.0 - self._seen_s / (2.0 * self._fading_s)
        return min(math.sqrt(self._squares * faded) / self._tokens, 1.0)
