"""What each user may use up of something that comes back with time."""

from __future__ import annotations

MAX_USERS = 1024


class Budgets:
    """A budget by user. Pure bookkeeping with the time handed in.

    Args:
        at_once: What a user has who used nothing of late.
        per_s: What comes back in a second.
    """

    def __init__(self, at_once: float, per_s: float) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._left: dict[int, tuple[float, float]] = {}

    def left(self, uid: int, now_s: float) -> float:
        """What a user has; below 0 if more was spent than there was."""
        left, at_s = self._left.get(uid, (self._at_once, now_s))
        return min(self._at_once, left + self._per_s * (now_s - at_s))

    def spend(self, uid: int, amount: float, now_s: float) -> float:
        """Take an amount from a user's budget; what is left."""
        left = self.left(uid, now_s) - amount
        if uid not in self._left and len(self._left) >= MAX_USERS:
            self._left = {
                user: kept
                for user, kept in self._left.items()
                if self.left(user, now_s) < self._at_once
            }
        self._left[uid] = (left, now_s)
        return left
