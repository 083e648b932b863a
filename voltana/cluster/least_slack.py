"""The least slack of the requests in a decode batch: what they were faster than their mean ITL.

A request with n tokens after its first may have its next one n + 1 thresholds after that. What it
is ahead of this is its slack; a batch has that of the request that has least. All that run on gain
the same with every iteration, so that a request is filed once, under what it began with.

Spending it makes tokens late, whose requests keep their mean. It stops where more than `SHARE` of
all tokens would be, so that the attainment of tokens falls by no more than that.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

SHARE = 0.005
"""Of all tokens, those that may be late because slack was spent."""


class LeastSlack:
    """The slack of one decode instance.

    Args:
        itl_s: The threshold.
        share: See `SHARE`.

    Attributes:
        tokens: Tokens that were produced.
        late: Those of them that slack was spent on.
    """

    def __init__(self, itl_s: float, share: float = SHARE) -> None:
        self.itl_s = itl_s
        self.tokens = self.late = 0
        self._share = share
        self._filed: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._number = self._iterations = 0

    def __contains__(self, key: Hashable) -> bool:
        """Whether a request decodes."""
        return key in self._filed

    def join(self, key: Hashable, first_token_s: float) -> None:
        """Note a request that decodes from the next iteration on."""
        ahead_s = first_token_s - self.itl_s * self._iterations
        self._filed[key] = ahead_s
        self._number += 1
        heapq.heappush(self._heap, (ahead_s, self._number, key))

    def clear(self) -> None:
        """Forget every request."""
        self._filed.clear()

    def leave(self, key: Hashable) -> None:
        """Note a request that decodes no more."""
        self._filed.pop(key, None)

    def produced(self, requests: int, gap_s: float) -> None:
        """Note that every request of the batch has one more token.

        Args:
            requests: The batch.
            gap_s: What they waited for it.
        """
        self._iterations += 1
        self.tokens += requests
        if gap_s > self.itl_s:
            self.late += requests

    def of(self, requests: int, now_s: float) -> float:
        """What the next iteration of a batch may take; nan if not all of its requests are known.

        It is the threshold at most where no more tokens may be late.
        """
        heap, filed = self._heap, self._filed
        while heap and filed.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        if requests > len(filed):
            return math.nan
        slack_s = heap[0][0] + self.itl_s * (self._iterations + 1) - now_s
        may_spend = self.late + requests <= self._share * (self.tokens + requests)
        return slack_s if may_spend else min(slack_s, self.itl_s)
