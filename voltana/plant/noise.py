"""Noise that is cheap to draw one by one and the same for a seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 4096


class LognormalNoise:
    """Multiplicative noise with median 1.

    Args:
        rng: Where the randomness comes from.
        relative_deviation: Standard deviation of the logarithm; 0 gives exactly 1 always.
    """

    __slots__ = ("_block", "_deviation", "_rng")

    def __init__(self, rng: np.random.Generator, relative_deviation: float) -> None:
        self._rng = rng
        self._deviation = relative_deviation
        self._block: list[float] = []

    def draw(self) -> float:
        """The next factor."""
        if not self._deviation:
            return 1.0
        if not self._block:
            # Drawn in blocks: one scalar draw through NumPy costs more than the rest of a step.
            self._block = self._rng.standard_normal(_BLOCK).tolist()
        return math.exp(self._block.pop() * self._deviation)
