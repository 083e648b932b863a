"""TokenDemand: how many output tokens per second the arriving requests ask for."""

from __future__ import annotations

import math

LEAST_GAP_S = 1e-6
"""No iteration is shorter; a rate over less is no rate."""


class TokenDemand:
    """Tokens demanded per second: those produced, and those that a growing batch still owes.

    Over any stretch of time, tokens demanded are tokens produced plus what the batch owes more at
    its end than at its start. So they are summed up, both fading with the same time constant: what
    was produced long ago counts as little as what joined then.

    Args:
        fading_s: The time constant.
    """

    def __init__(self, fading_s: float) -> None:
        self._fading_s = fading_s
        self._seconds = self._tokens = self._joined = 0.0
        self._batch, self._at_s = 0, math.nan

    @property
    def seconds(self) -> float:
        """Over how long it averages: its time constant, and less as long as it is new."""
        return self._seconds

    def note(self, batch: int, now_s: float) -> None:
        """Note the batch of the iteration that begins now."""
        gap_s = now_s - self._at_s
        if LEAST_GAP_S < gap_s < math.inf:
            faded = -math.expm1(-gap_s / self._fading_s)
            kept = 1.0 - faded
            # What came in a gap has faded since by so much, on average; in a short one by nothing.
            left = faded * self._fading_s / gap_s
            self._seconds = kept * self._seconds + left * gap_s
            self._tokens = kept * self._tokens + left * self._batch
            self._joined *= kept
        if self._seconds:
            self._joined += batch - self._batch
        self._batch, self._at_s = batch, now_s

    def tokens_per_s(self, owed_tokens: float) -> float:
        """The demand; 0 before the second note.

        Args:
            owed_tokens: What a request in the batch has still to produce, on average.
        """
        if not self._seconds:
            return 0.0
        tokens_per_s = (self._tokens + owed_tokens * self._joined) / self._seconds
        return tokens_per_s if tokens_per_s > 0.0 else 0.0
