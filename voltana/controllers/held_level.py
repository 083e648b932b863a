"""HeldLevel: up at once, down when staying has cost as much as changing would have.

A change that is taken back soon has cost two settlings, and wishes are noisy while the batch is
near a step of its latency. How long a lower wish will last is not known, so it is rent or buy: stay
until what staying has cost in excess comes to the price of a change, which never costs more than
twice what foresight would have (A. Karlin, M. Manasse, L. Rudolph, D. Sleator, "Competitive snoopy
caching", Algorithmica 3, 1988).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.values import FloatArray

PRICE_S = 0.1
"""Price of a change, as the energy of so many seconds."""


class HeldLevel:
    """The level to take for each wish.

    Args:
        price_s: See `PRICE_S`; 0 follows every wish.
    """

    def __init__(self, price_s: float = PRICE_S) -> None:
        self._price_s = price_s
        self._index, self._at_s = 0, math.nan
        self._wish, self._spent_s = 0, 0.0

    def hold(self, index: int, cost_w: FloatArray, now_s: float) -> int:
        """Index to take when `index` is wanted.

        Args:
            index: The slowest level that may be taken, and is wanted.
            cost_w: Power at every level.
            now_s: The time; calls come in its order.
        """
        gap_s = now_s - self._at_s
        self._at_s = now_s
        if index >= self._index or not gap_s < 1.0:
            self._index, self._wish, self._spent_s = index, 0, 0.0
            return index
        self._wish = max(self._wish, index)
        self._spent_s += gap_s * (1.0 - float(cost_w[self._wish] / cost_w[self._index]))
        if self._spent_s >= self._price_s:
            self._index, self._wish, self._spent_s = self._wish, 0, 0.0
        return self._index
