"""Whose turn it is: what controls a GPU comes first, everything else in turns and within shares.

The worker is one thread. What a user has it do besides commands is put down to that user, and who
has had more than a share of its time is not listened to until that is made up for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.budgets import Budgets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TURN_S = 0.001
"""How long those who control nothing may keep the worker before it looks at all others again."""

SHARE, SHARE_AT_ONCE_S = 0.05, 0.03
"""What one user may have of the worker's time."""

REST_S, LONGEST_REST_S = 0.02, 0.25
"""How long one is not listened to who has had more."""


class Turns:
    """Deals with what has something to say.

    Args:
        handle: Deals with a source.
        can_wait: Whether a source controls nothing.
    """

    def __init__(
        self, handle: Callable[[object], None], can_wait: Callable[[object], bool]
    ) -> None:
        self._handle = handle
        self._can_wait = can_wait
        self._first = 0

    def take(self, sources: Iterable[object]) -> None:
        """Deal with all that cannot wait, and with as many others as there is time for."""
        later = []
        for source in sources:
            if self._can_wait(source):
                later.append(source)
            else:
                self._handle(source)
        if not later:
            return
        first, ends_s = self._first % len(later), time.monotonic() + TURN_S
        for source in (*later[first:], *later[:first]):
            self._handle(source)
            self._first += 1
            if time.monotonic() > ends_s:
                return


class Shares:
    """The worker's time, by user: of its processor, since waiting for that is nobody's doing."""

    def __init__(self) -> None:
        self._budgets = Budgets(SHARE_AT_ONCE_S, SHARE)

    def spent(self, uid: int, seconds: float, now_s: float) -> float:
        """A user has had so much; until when it rests, 0 if it need not."""
        left_s = self._budgets.spend(uid, seconds, now_s)
        if left_s >= 0.0:
            return 0.0
        return now_s + min(LONGEST_REST_S, max(REST_S, -left_s / SHARE))
