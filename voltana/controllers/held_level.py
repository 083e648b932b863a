"""HeldLevel: up at once, down when staying has cost as much as changing would have.

A change that is taken back soon has cost two settlings, and wishes are noisy while the batch is
near a step of its latency. How long a lower wish will last is not known, so it is rent or buy: stay
until what staying has cost in excess comes to the price of a change, which never costs more than
twice what foresight would have (A. Karlin, M. Manasse, L. Rudolph, D. Sleator, "Competitive snoopy
caching", Algorithmica 3, 1988).

A wish that follows a rise says little: the batch has yet to shrink to what the faster level serves,
and at the slower one it would grow again. So nothing is lowered before it has had time to settle. A
batch that fills grows at either: there is nothing to wait for, and what an instance took for its
demand and its contexts when its first requests came need not stand for seconds.
"""

from __future__ import annotations

import math
from typing import Protocol

PRICE_S = 0.1
"""Price of a change, as the energy of so many seconds."""

SETTLING_S = 3.0
"""No lower level is taken so soon after a higher one: about half the time that a request stays in a
batch. Longer takes back fewer changes and saves less."""


class Costs(Protocol):
    """Power at every level, or the energy of the same work at each."""

    def __getitem__(self, index: int, /) -> float:
        """That of one level."""
        ...


class HeldLevel:
    """The level to take for each wish.

    Args:
        price_s: See `PRICE_S`.
        settling_s: See `SETTLING_S`; 0 for both follows every wish.
    """

    def __init__(self, price_s: float = PRICE_S, settling_s: float = SETTLING_S) -> None:
        self._price_s, self._settling_s = price_s, settling_s
        self._index, self._at_s, self._rose_s = 0, math.nan, -math.inf
        self._wish, self._spent_s = 0, 0.0

    def hold(self, index: int, cost: Costs, now_s: float, *, fills: bool = False) -> int:
        """Index to take when `index` is wanted.

        Args:
            index: The slowest level that may be taken, and is wanted.
            cost: What each level costs; looked at where a lower one is wanted.
            now_s: The time; calls come in its order.
            fills: Whether the batch grows at any level, so that a rise need not settle.
        """
        gap_s = now_s - self._at_s
        self._at_s = now_s
        if index >= self._index or not gap_s < 1.0:
            if index > self._index and gap_s < 1.0:
                self._rose_s = now_s
            self._index, self._wish, self._spent_s = index, 0, 0.0
            return index
        if not fills and now_s - self._rose_s < self._settling_s:
            return self._index
        self._wish = max(self._wish, index)
        held = float(cost[self._index])
        excess = 1.0 - float(cost[self._wish]) / held if held > 0.0 else math.nan
        self._spent_s += gap_s * excess if math.isfinite(excess) else 0.0
        if self._spent_s >= self._price_s:
            self._index, self._wish, self._spent_s = self._wish, 0, 0.0
        return self._index
