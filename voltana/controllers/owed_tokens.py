"""OwedTokens: what a request in the batch has still to produce, on average.

Tokens produced over requests ended: the maximum-likelihood mean of exponentially distributed
answers, of which those that run are censored observations (J. F. Lawless, "Statistical Models and
Methods for Lifetime Data", 2003, section 4.1). What is left of such an answer is as long as the
whole, however much of it there already is. As answers are not quite like that, and the first to end
are the short ones, the first guess stands as far as it is within the error of what was seen.
"""

from __future__ import annotations

import math

ERRORS = 2.0
"""Standard errors of the mean within which the first guess stands."""

REMEMBERED_ENDS = 1000.0
"""Ended requests over which it averages: what answers are like moves slowly."""


class OwedTokens:
    """Mutable; the first guess as long as no request tells that it has ended.

    Args:
        first: That guess, in tokens.

    Attributes:
        mean: What is taken for the mean, in tokens.
    """

    __slots__ = ("_ended", "_first", "_produced", "_since", "mean")

    def __init__(self, first: float) -> None:
        self.mean = self._first = first
        self._ended = self._produced = 0.0
        self._since = 0

    def produced(self, tokens: int) -> None:
        """Note what an iteration produces."""
        self._since += tokens

    def ended(self) -> None:
        """Note that a request has ended."""
        kept = 1.0 - 1.0 / REMEMBERED_ENDS
        self._ended = kept * self._ended + 1.0
        self._produced = kept * self._produced + self._since
        self._since = 0
        mean = self._produced / self._ended
        error = ERRORS * mean / math.sqrt(self._ended)
        # Whoever has ended has produced something, whether it was noted or not.
        self.mean = max(min(self._first, mean + error), mean - error, 1.0)
