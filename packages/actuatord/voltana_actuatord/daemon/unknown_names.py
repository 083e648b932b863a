"""How often a user may name GPUs that nobody has seen: each such name costs a process to look."""

from __future__ import annotations

from voltana_actuatord.faults import LeaseRefusedError

AT_ONCE = 16.0
PER_S = 4.0
MAX_USERS = 1024


class UnknownNames:
    """A budget by user, which an honest one never notices: known GPUs cost nothing."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[float, float]] = {}

    def charge(self, uid: int, names: int, now_s: float) -> None:
        """Take note of names that nobody has seen.

        Args:
            uid: Who names them.
            names: How many; a full budget is enough for any number.
            now_s: The time.

        Raises:
            LeaseRefusedError: If the user has named too many of late.
        """
        if not names:
            return
        left = self._left_of(uid, now_s)
        cost = min(float(names), AT_ONCE)
        if left < cost:
            raise LeaseRefusedError(
                f"uid {uid} has named many GPUs that were not known. Check the UUIDs "
                f"(nvidia-smi -L); try again in {(cost - left) / PER_S:.1f} s.",
                transient=True,
            )
        if len(self._left) >= MAX_USERS:
            self._left = {
                user: kept
                for user, kept in self._left.items()
                if self._left_of(user, now_s) < AT_ONCE
            }
        self._left[uid] = (left - cost, now_s)

    def _left_of(self, uid: int, now_s: float) -> float:
        left, at_s = self._left.get(uid, (AT_ONCE, now_s))
        return min(AT_ONCE, left + PER_S * (now_s - at_s))
