"""EndRate: how often requests end on an instance, from those that do while another is prefilled.

A request takes its room in a decode batch when its prompt has been computed, and those that end
until then leave theirs. So what a full batch will have room for in time need not wait elsewhere.
Where an instance is chosen after the prefill the rate is not known, and nothing needs it: who waits
then is prefilled already.
"""

from __future__ import annotations

import math

REMEMBERED = 64.0
"""Requests that the means go back to, those of long ago counting less."""


class EndRate:
    """Counts the requests of one instance that end.

    Attributes:
        ended: Requests that have ended there so far. Those that were given up before they had room
            leave none.
        per_s: Requests that end per second; 0 where that is not known.
    """

    __slots__ = ("_ends", "_seconds", "ended", "per_s")

    def __init__(self) -> None:
        self.ended = 0
        self.per_s = 0.0
        self._ends = self._seconds = 0.0

    def prefilled(self, ended_before: int, taken_s: float) -> None:
        """A request has been prefilled.

        Args:
            ended_before: What `ended` was when it was sent.
            taken_s: Time since then; where that is none, as of a clock that went back, it says
                nothing.
        """
        if not 0.0 < taken_s < math.inf:
            return
        self._ends += (self.ended - ended_before - self._ends) / REMEMBERED
        self._seconds += (taken_s - self._seconds) / REMEMBERED
        self.per_s = self._ends / self._seconds if self._seconds else 0.0
