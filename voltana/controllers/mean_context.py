"""MeanContext: what a running request holds in the KV cache, as it lasts.

The mean over the requests that happen to run moves by the spread of their prompts over the root of
the batch: by a fifth from second to second, where prompts differ and memory holds 70 of them. Where
memory ends the viable batches, what it will hold once the batch has settled follows from the mean
over time, as the demand does, and of contexts as they will have grown by then (`AnswerAge`).
"""

from __future__ import annotations

import math

from voltana.controllers.demand_envelope import DEMAND_S


class MeanContext:
    """Tokens of a running request, averaged over `DEMAND_S`."""

    __slots__ = ("_at_s", "_requests", "_tokens")

    def __init__(self) -> None:
        self._at_s = math.nan
        self._requests = self._tokens = 0.0

    def note(self, requests: int, tokens: float, now_s: float) -> None:
        """Note a batch and what each of its requests holds or will hold, once a plan."""
        gap_s = now_s - self._at_s
        kept = math.exp(-gap_s / DEMAND_S) if gap_s > 0.0 else 1.0
        self._at_s = now_s
        self._requests = kept * self._requests + requests
        self._tokens = kept * self._tokens + requests * tokens

    @property
    def tokens(self) -> float:
        """The mean; 0 before anything was noted."""
        return self._tokens / self._requests if self._requests else 0.0
