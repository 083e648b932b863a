"""KV caches that prefill instances hold for requests which have left them.

A prompt that is computed keeps its blocks until a decode instance has pulled them: while the
request waits for a decode instance, and while its cache moves. No report of the prefill instance
names them, but they take room from the next prompts, so that whoever chooses counts them. When
nobody pulls a cache any more, its instance frees it after a time that is stated (its lease), unless
it is told so before.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from voltana.values import NO_RESERVATION
from voltana.values.routing import make_reservation

if TYPE_CHECKING:
    from collections.abc import Hashable

    from voltana.values import Reservation

LEARNED_SHARE = 0.1
"""Of each cache whose fetching was seen, in the usual time that one is held."""


class _Held(NamedTuple):
    """One cache; or several, of the prompts of one request."""

    instance: str
    what: Reservation
    since_s: float


class HeldCaches:
    """What every prefill instance holds; all times are of the dispatcher's own clock.

    Attributes:
        usual_s: How long caches are held whose fetching is seen; 0 before any was. A request whose
            fetching nobody sees is taken to have been fetched after that time.
    """

    def __init__(self) -> None:
        self.usual_s = 0.0
        self._held: dict[Hashable, _Held] = {}
        self._totals: dict[str, Reservation] = {}
        self._ending: deque[tuple[float, Hashable, _Held]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, rid: Hashable, instance: str, what: Reservation, now_s: float) -> None:
        """The prompts of a request are computed, and their instance keeps the caches."""
        self.let_go(rid)
        self._held[rid] = _Held(instance, what, now_s)
        self._add(instance, what, 1)

    def fetched(self, rid: Hashable, now_s: float) -> None:
        """They are seen to have been pulled. Unknown ids are ignored."""
        held = self._held.get(rid)
        if held is None:
            return
        took_s = max(0.0, now_s - held.since_s)
        share = LEARNED_SHARE if self.usual_s else 1.0
        self.usual_s += share * (took_s - self.usual_s)
        self.let_go(rid)

    def let_go(self, rid: Hashable) -> None:
        """They are free again, pulled or not. Unknown ids are ignored."""
        held = self._held.pop(rid, None)
        if held is not None:
            self._add(held.instance, held.what, -1)

    def end_after(self, rid: Hashable, for_s: float, now_s: float) -> None:
        """They are free again after `for_s` at the latest, though nobody will say so."""
        held = self._held.get(rid)
        self._expire(now_s)
        if held is not None:
            self._ending.append((now_s + for_s, rid, held))

    def held(self, instance: str, now_s: float) -> Reservation:
        """What an instance holds."""
        if self._ending:
            self._expire(now_s)
        return self._totals.get(instance, NO_RESERVATION)

    def _expire(self, now_s: float) -> None:
        due = [one for one in self._ending if one[0] <= now_s]
        if not due:
            return
        for _, rid, held in due:
            if self._held.get(rid) is held:  # and no later one of the same id
                self.let_go(rid)
        self._ending = deque(one for one in self._ending if one[0] > now_s)

    def _add(self, instance: str, what: Reservation, sign: int) -> None:
        total = self._totals.get(instance, NO_RESERVATION)
        self._totals[instance] = make_reservation(
            requests=total.requests + sign * what.requests,
            prompt_tokens=total.prompt_tokens + sign * what.prompt_tokens,
        )
