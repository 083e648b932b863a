"""Infers how long requests have waited from nothing but how many wait."""

from __future__ import annotations

import math
from collections import deque

from voltana.cluster.queueing import Waiting
from voltana_ring.layout import MAX_ENTRIES

MOST_RUNS = 1024
"""Different times of arrival that are kept; those beyond count as having come with the last."""


class ArrivalsInferred:
    """First come, first served: who came when, by the counts of successive messages.

    A request that was not there at one message and is at the next may have come at any time
    between; the earliest is taken, so that no deadline is seen too late.
    """

    def __init__(self) -> None:
        self._runs: deque[list[float]] = deque()
        self._count = 0

    @property
    def oldest_s(self) -> float:
        """Earliest arrival of the first in line; nan where nobody waits."""
        return self._runs[0][0] if self._runs else math.nan

    def take(self, waiting: int, started: int, earliest_s: float) -> float:
        """Follow the queue over one iteration.

        Args:
            waiting: How many wait now.
            started: How many were taken from the queue since the last call.
            earliest_s: Since when those that are new may have been there.

        Returns:
            Earliest arrival of those that were started; nan where none was.
        """
        come = max(waiting + started - self._count, 0)
        if come and len(self._runs) >= MOST_RUNS:
            self._runs[-1][1] += come
        elif come:
            self._runs.append([earliest_s, come])
        self._count += come
        oldest_s = self.oldest_s if started else math.nan
        self._drop(self._count - waiting)
        return oldest_s

    def waiting(self, tokens: int) -> tuple[Waiting, ...]:
        """The first in line, with the tokens of all of them shared out evenly.

        Args:
            tokens: Of all that wait.
        """
        found: list[Waiting] = []
        for arrived_s, count in self._runs:
            share = -(-tokens // self._count)
            several = min(int(count), MAX_ENTRIES - len(found))
            found += [Waiting(arrived_s, share, 0)] * several
        return tuple(found)

    def _drop(self, count: int) -> None:
        """Let the first in line go."""
        self._count -= max(count, 0)
        while count > 0:
            if self._runs[0][1] > count:
                self._runs[0][1] -= count
                return
            count -= int(self._runs.popleft()[1])
