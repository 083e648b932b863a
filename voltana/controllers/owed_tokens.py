"""OwedTokens: what a request in the batch has still to produce, on average.

Nobody knows how long the answers that run will be, and the first to end are the short ones. What is
seen can be read in two ways:

- Tokens produced over requests ended, the maximum-likelihood mean of exponentially distributed
  answers, of which those that run are censored observations (J. F. Lawless, "Statistical Models and
  Methods for Lifetime Data", 2003, section 4.1). What is left of such an answer is as long as the
  whole, however much of it there already is. Of answers that are all alike it is many times too
  much until more have ended than run, and tells nothing before one has.
- Tokens produced over requests passed, where one that runs counts as half of one. That is exact
  for answers of one length that come evenly; before any has ended, it is what the oldest has
  produced. Of exponentially distributed answers it is half of the mean at first, later all of it.

So the first, within its error, counts up to twice the second, and the second, within its error, at
least. The first guess stands as long as it is within these bounds.
"""

from __future__ import annotations

import math

ERRORS = 2.0
"""Standard errors of an estimate within which the first guess stands."""

REMEMBERED_ENDS = 1000.0
"""Ended requests over which it averages: what answers are like moves slowly."""


class OwedTokens:
    """Mutable; the first guess as long as requests leave and none tells that it has ended.

    Args:
        first: That guess, in tokens.
    """

    __slots__ = (
        "_batch", "_batch_then", "_ended", "_first", "_joined", "_left", "_mean", "_produced",
        "_since",
    )  # fmt: skip

    def __init__(self, first: float) -> None:
        self._first = first
        self._joined = self._ended = self._produced = 0.0
        self._since = self._batch = self._batch_then = 0
        self._left = False
        self._mean: float | None = None  # until something else is noted: a plan asks several times

    def produced(self, tokens: int) -> None:
        """Note what an iteration produces: a token for each request of the batch."""
        self._since += tokens
        self._left |= tokens < self._batch
        self._batch, self._mean = tokens, None

    def ended(self) -> None:
        """Note that a request has ended."""
        kept = 1.0 - 1.0 / REMEMBERED_ENDS
        # Whoever has ended had joined; the batch tells of the others.
        self._joined = kept * self._joined + self._batch - self._batch_then + 1.0
        self._ended = kept * self._ended + 1.0
        self._produced = kept * self._produced + self._since
        self._since, self._batch_then, self._mean = 0, self._batch, None

    @property
    def mean(self) -> float:
        """What is taken for the mean, in tokens."""
        if self._mean is None:
            self._mean = self._work_out()
        return self._mean

    def _work_out(self) -> float:
        ended, produced = self._ended, self._produced + self._since
        if not ended and self._left:
            return self._first
        joined = self._joined + self._batch - self._batch_then
        passed = max((joined + ended) / 2.0, ended / 2.0, 1.0)
        least = produced / passed * (1.0 - ERRORS / math.sqrt(passed))
        most = math.inf
        if ended:
            mean, error = produced / ended, ERRORS / math.sqrt(ended)
            most = mean * (1.0 + error)
            least = max(least, min(mean * (1.0 - error), 2.0 * produced / passed))
        # Whoever has ended has produced something, whether it was noted or not.
        return max(min(self._first, most), least, 1.0)
