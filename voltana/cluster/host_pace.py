"""HostPace: what a host takes over one prompt, from the times at which its scheduler gets them.

A host prepares one prompt after the other. While one waits for it the times between those that are
ready are what it takes over each; where none waited, they are what arrives. How long the oldest has
waited says nothing of that: of a line that has just begun it is the time since it began, so that
its share of each is the gap between arrivals, however slow the host is.

Reports tell less: which were ready at some time since the one before. That one of them was sent
before that is no sign of a busy host, as every prompt is on its way for a moment. It was busy from
one report to the next if somebody waits still who did so already then; and what it has got ready
meanwhile took it that time.

Whoever is ready took no longer than since it was sent. So what was measured while a host stood
still for once is forgotten, though nobody waits for it any more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEMBERED = 64.0
"""Prompts that the mean goes back to, those of long ago counting less."""

_ROUNDING = 1e-9


class HostPace:
    """Hears of every prompt of one instance that its scheduler has got.

    Attributes:
        each_s: Mean time over one prompt; 0 before one had to wait.
    """

    __slots__ = (
        "_busy_s", "_given_up_s", "_idle_until_s", "_named", "_newest_s", "_prompts", "_sure",
        "_told_s", "each_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.each_s = 0.0
        self._busy_s = self._prompts = 0.0
        self._told_s = self._idle_until_s = self._newest_s = self._given_up_s = -math.inf
        self._named, self._sure = 0, True

    def ready(self, prompts: int, sent_s: float, now_s: float) -> None:
        """Prompts that were sent together are ready at this moment.

        Args:
            prompts: How many.
            sent_s: When they were sent.
            now_s: The current time, of the same clock.
        """
        before_s = self._told_s
        if now_s > before_s:
            self._told_s = now_s
        if sent_s > before_s:
            self._idle_until_s = now_s
            self._took_at_most(prompts, now_s - sent_s)
        if now_s == self._idle_until_s:  # what is told together may have begun at any time
            return
        self._took(prompts, max(now_s - before_s, 0.0))

    def named(self, prompts: int, sent_s: float, now_s: float) -> None:
        """Prompts have become ready since the last report; arguments as above."""
        self._named += prompts
        self._newest_s = max(self._newest_s, sent_s)
        self._took_at_most(prompts, now_s - sent_s)

    def given_up(self, sent_s: float) -> None:
        """Prompts that were sent then have not been named for so long that none waits for it.

        They may be prepared yet: until one that was sent later is named, nothing is measured.
        """
        self._given_up_s = max(self._given_up_s, sent_s)

    def reported(self, now_s: float, waiting_since_s: Iterable[float]) -> None:
        """A report has named all that were ready by then.

        Args:
            now_s: When it was made.
            waiting_since_s: When those were sent whom none has named, the oldest first. Who is
                older than one that was named is lost, and waits for nothing.
        """
        before_s, self._told_s = self._told_s, max(self._told_s, now_s)
        named, self._named = self._named, 0
        sure, self._sure = self._sure, self._newest_s >= self._given_up_s
        since_s = next((sent for sent in waiting_since_s if sent >= self._newest_s), math.inf)
        if sure and self._sure and since_s <= before_s <= now_s:
            self._took(named, now_s - before_s)

    def _took_at_most(self, prompts: int, taken_s: float) -> None:
        if 0.0 <= taken_s < (1.0 - _ROUNDING) * prompts * self.each_s:
            self._took(prompts, taken_s)

    def _took(self, prompts: int, taken_s: float) -> None:
        kept = max(1.0 - prompts / REMEMBERED, 0.0)
        self._busy_s = kept * self._busy_s + taken_s
        self._prompts = kept * self._prompts + prompts
        if self._prompts:
            self.each_s = self._busy_s / self._prompts
