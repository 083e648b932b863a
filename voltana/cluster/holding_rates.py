"""How many requests come to a holding queue, how often its first finds a place, and who is late."""

from __future__ import annotations

import math

FADING_S = 10.0
LEARNING_S = 4.0
"""How fast the rate of places fades, and how long somebody has to wait before it is known."""

REMEMBERED_S = 600.0
"""How fast those that waited on late fade, and all that came: a long calm is no licence."""


class _Fading:
    """How much is left of what was noted before, by a clock that may go back.

    Args:
        time_s: Time constant.
    """

    __slots__ = ("_at_s", "_time_s")

    def __init__(self, time_s: float) -> None:
        self._at_s = math.nan
        self._time_s = time_s

    def pass_to(self, now_s: float) -> tuple[float, float]:
        """The share that is left, and the seconds that have passed, since it was asked last."""
        gap_s = now_s - self._at_s
        if gap_s <= 0.0:
            return 1.0, 0.0
        self._at_s = now_s
        if not gap_s > 0.0:  # no number: it is asked for the first time
            return 1.0, 0.0
        return math.exp(-gap_s / self._time_s), gap_s


class ArrivalRate:
    """Requests and prompt tokens that have arrived per second of late."""

    __slots__ = ("_fading", "_requests", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._fading = _Fading(FADING_S)
        self._requests = self._tokens = self._seconds = 0.0

    def note(self, prompt_tokens: int, now_s: float) -> None:
        """A request has arrived."""
        self._fade(now_s)
        self._requests += 1.0
        self._tokens += prompt_tokens

    def per_s(self, now_s: float) -> tuple[float, float]:
        """Both rates; less than a second counts as one."""
        self._fade(now_s)
        seconds = max(self._seconds, 1.0)
        return self._requests / seconds, self._tokens / seconds

    def _fade(self, now_s: float) -> None:
        kept, gap_s = self._fading.pass_to(now_s)
        self._requests *= kept
        self._tokens *= kept
        self._seconds = kept * self._seconds + gap_s


class PlaceRate:
    """How often the first in line has been let in of late, while there was one.

    Those that come to a line that is longer than what it lets in while they may wait need not wait.
    """

    __slots__ = ("_at_s", "_places", "_seconds")

    def __init__(self) -> None:
        self._at_s = math.nan  # up to when time is counted; nan while nobody waits
        self._places = self._seconds = 0.0

    def held(self, now_s: float) -> None:
        """Somebody waits from now on."""
        self._count(now_s)
        self._at_s = now_s

    def found(self, now_s: float) -> None:
        """The first in line has been let in."""
        self._count(now_s)
        self._places += 1.0

    def emptied(self, now_s: float) -> None:
        """Nobody waits any more."""
        self._count(now_s)
        self._at_s = math.nan

    def expected_s(self, position: int, now_s: float) -> float:
        """How long the one at a position, from 1, will wait; 0 where too little is known."""
        self._count(now_s)
        if self._seconds < LEARNING_S:
            return 0.0
        return position * self._seconds / self._places if self._places else math.inf

    def _count(self, now_s: float) -> None:
        gap_s = now_s - self._at_s
        if gap_s > 0:
            kept = math.exp(-gap_s / FADING_S)
            self._places *= kept
            self._seconds = kept * self._seconds + gap_s
            self._at_s = now_s


class LateShare:
    """How many of the requests that came of late have waited on though they were late."""

    __slots__ = ("_fading", "_late", "_requests")

    def __init__(self) -> None:
        self._fading = _Fading(REMEMBERED_S)
        self._late = self._requests = 0.0

    def came(self, now_s: float) -> None:
        """A request has arrived."""
        kept, _ = self._fading.pass_to(now_s)
        self._late *= kept
        self._requests = kept * self._requests + 1.0

    def waits_on(self) -> None:
        """One of them waits on."""
        self._late += 1.0

    def leaves(self, more: int, share: float) -> bool:
        """Whether so many more may be late that wait, so that no more than that share are."""
        # Of all that come all may, though one is counted when it waits on, and not when it came.
        return share >= 1.0 or self._late + more <= share * self._requests
