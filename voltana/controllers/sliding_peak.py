"""The greatest of the values of a stretch of time that slides along.

By the queue of values that can still become the greatest (D. Lemire, "Streaming maximum-minimum
filter using no more than three comparisons per element", Nordic Journal of Computing 13(4), 2006).
"""

from __future__ import annotations

from collections import deque


class SlidingPeak:
    """Mutable; keeps no more values than can still matter.

    Args:
        window_s: Length of the stretch.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._kept: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, value: float) -> float:
        """Enter a value, at a time no sooner than the last one; the greatest of the stretch."""
        kept = self._kept
        while kept and kept[-1][1] <= value:
            kept.pop()
        kept.append((now_s, value))
        while kept[0][0] < now_s - self._window_s:
            kept.popleft()
        return kept[0][1]
