"""Prospect: what one request more does to the clock and the tiles of an instance.

All that does not depend on the prompt is worked out once for a state of the instance. What does is
whether a level is still safe with it: where the model tells how many tokens a level has room for,
that is one comparison, and a forecast where it does not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from voltana.planning import load_with, memory_tokens, planned_level, planned_within
from voltana.ports import TellsRoom, offers
from voltana.values.routing import PREFILL

if TYPE_CHECKING:
    from voltana.planning import Upcoming
    from voltana.values import Candidate, Request

Harm = tuple[bool, float, bool, int]
"""No clock is safe; how much the clock has to rise; a new tile begins; the requests then."""


class Prospect:
    """What a request does to an instance whose router knows its model and levels.

    Args:
        candidate: The instance.
        comes: Its next iteration.
        tile: Requests of a batch tile.
        boundary_mhz: Rises up to this do not count.
        wake_share: Share of its fastest clock, of its KV cache and of the requests that it runs at
            once, that it may need to be calm.
        guess: Level that it may need now; changes no answer.

    Attributes:
        calm_tokens: Longest prompt with which it certainly stays calm; -1 if none.
        asks: Whether longer ones have to be asked for, by `stays_calm`.
        level: Index of the level that it needs now; the number of levels where none is safe, and
            of an idle one.
        new_tile: Whether its batch begins a new tile.
        requests: Its requests then.
    """

    __slots__ = (
        "_boundary_mhz", "_calm", "_candidate", "_now", "_now_mhz", "_wake_share",
        "asks", "calm_tokens", "level", "new_tile", "requests",
    )  # fmt: skip

    def __init__(
        self,
        candidate: Candidate,
        comes: Upcoming,
        tile: int,
        boundary_mhz: float,
        wake_share: float,
        *,
        guess: int = 0,
    ) -> None:
        now, levels_mhz = comes.load, candidate.levels_mhz
        joins = candidate.role is not PREFILL
        self._candidate, self._now = candidate, now
        self._boundary_mhz, self._wake_share = boundary_mhz, wake_share
        self.requests = now.decode_requests + joins
        # The first tile is there from the start: an empty instance crosses no boundary.
        self.new_tile = joins and now.decode_requests > 0 and now.decode_requests % tile == 0
        # An idle instance may be at any clock, so none has to rise; nor has one to the lowest.
        wakes = is_idle(candidate, comes)
        none = len(levels_mhz)
        self.level = none if wakes else planned_level(candidate, comes, guess)
        self._now_mhz = levels_mhz[self.level] if self.level < none else math.inf
        self._calm = -1 if wakes or self.new_tile else self._calm_level()
        most = self._most_tokens(self._calm)
        self.asks = most is None
        self.calm_tokens = -1 if most is None else most

    def _calm_level(self) -> int:
        """The fastest level that is harmless, and no more than the share of the fastest."""
        levels = self._candidate.levels_mhz
        awake = bisect_right(levels, self._wake_share * levels[-1]) - 1
        if awake < 0 or levels[awake] <= self._now_mhz + self._boundary_mhz:
            return awake
        return self._harmless()

    def _harmless(self) -> int:
        """The fastest level to which a rise does not count."""
        # One that counts is to a level that lies further above than the boundary.
        return bisect_right(self._candidate.levels_mhz, self._now_mhz + self._boundary_mhz) - 1

    @property
    def full(self) -> bool:
        """Whether more than the share of its KV cache or of its places is taken."""
        candidate, share = self._candidate, self._wake_share
        return (
            memory_tokens(candidate) > share * candidate.kv_capacity_tokens
            or self.requests > share * candidate.max_running_requests
        )

    def stays_calm(self, request: Request) -> bool:
        """Whether it is awake, crosses no boundary, and needs no more of its clock than the share.

        That it is not `full` is another question.
        """
        return self._is_safe_at(self._calm, request)

    def is_harmless(self, request: Request) -> bool:
        """Whether some level is safe, and neither a rise nor a new tile begins."""
        return not self.new_tile and self._is_safe_at(self._harmless(), request)

    def is_safe(self, request: Request) -> bool:
        """Whether any level is safe."""
        return self._is_safe_at(len(self._candidate.levels_mhz) - 1, request)

    def harm(self, request: Request) -> Harm:
        """How much harm is done, to be compared."""
        levels = self._candidate.levels_mhz
        after = bisect_left(
            range(len(levels)), True, key=lambda level: self._is_safe_at(level, request)
        )
        # An instance that no clock can save runs at its fastest one, and gets slower.
        after_mhz = levels[min(after, len(levels) - 1)]
        rises = after_mhz > self._now_mhz + self._boundary_mhz
        rise_mhz = after_mhz - self._now_mhz if rises else 0.0
        return after == len(levels), rise_mhz, self.new_tile, self.requests

    def _is_safe_at(self, level: int, request: Request) -> bool:
        """Whether a level is safe with the request; -1 stands for one below all."""
        most = self._most_tokens(level)
        if most is not None:
            return request.prompt_tokens <= most
        candidate = self._candidate
        after = load_with(self._now, request, candidate.role)
        return planned_within(candidate, after, candidate.levels_mhz[level])

    def _most_tokens(self, level: int) -> int | None:
        """Longest prompt with which a level is safe, -1 if none; None where it has to be tried."""
        if level < 0:
            return -1
        candidate, now = self._candidate, self._now
        predictor = candidate.predictor
        if candidate.role is PREFILL or not offers(predictor, TellsRoom):
            return None
        most = predictor.most_kv_tokens(
            now.decode_requests + 1, candidate.levels_mhz[level], candidate.budget_s
        )
        if most is None:
            return None
        room = most - now.decode_kv_tokens
        return room if room > -1 else -1


def is_idle(candidate: Candidate, comes: Upcoming) -> bool:
    """Whether nothing runs on an instance, and nothing is on its way there."""
    now = comes.load
    return not (candidate.in_flight or now.prefill_tokens or now.decode_requests)
