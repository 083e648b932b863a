"""HostPace: what a host takes over one prompt, from the times at which its scheduler gets them.

A host prepares one prompt after the other. While one waits for it the times between those that are
ready are what it takes over each; where none waited, they are what arrives. How long the oldest has
waited says nothing of that: of a line that has just begun it is the time since it began, so that
its share of each is the gap between arrivals, however slow the host is.
"""

from __future__ import annotations

import math

REMEMBERED = 64.0
"""Prompts that the mean goes back to, those of long ago counting less."""


class HostPace:
    """Hears of every prompt of one instance that its scheduler has got.

    Attributes:
        each_s: Mean time over one prompt; 0 before one had to wait.
    """

    __slots__ = ("_busy_s", "_idle_until_s", "_prompts", "_ready_s", "each_s")

    def __init__(self) -> None:
        self.each_s = 0.0
        self._busy_s = self._prompts = 0.0
        self._ready_s = self._idle_until_s = -math.inf

    def ready(self, prompts: int, sent_s: float, now_s: float) -> None:
        """Prompts that were sent together are ready.

        Args:
            prompts: How many.
            sent_s: When they were sent.
            now_s: The current time, of the same clock.
        """
        before_s, self._ready_s = self._ready_s, now_s
        if sent_s > before_s:
            self._idle_until_s = now_s
        if now_s == self._idle_until_s:  # what a report tells together may have begun at any time
            return
        kept = max(1.0 - prompts / REMEMBERED, 0.0)
        self._busy_s = kept * self._busy_s + max(now_s - before_s, 0.0)
        self._prompts = kept * self._prompts + prompts
        self.each_s = self._busy_s / self._prompts
