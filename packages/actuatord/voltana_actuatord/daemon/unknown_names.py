"""How often a user may name GPUs that nobody has seen: each such name costs a process to look."""

from __future__ import annotations

from voltana_actuatord.daemon.budgets import Budgets
from voltana_actuatord.faults import LeaseRefusedError

AT_ONCE = 16.0
PER_S = 4.0


class UnknownNames:
    """A budget by user, which an honest one never notices: known GPUs cost nothing."""

    def __init__(self) -> None:
        self._budgets = Budgets(AT_ONCE, PER_S)

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
        left, cost = self._budgets.left(uid, now_s), min(float(names), AT_ONCE)
        if left < cost:
            raise LeaseRefusedError(
                f"uid {uid} has named many GPUs that were not known. Check the UUIDs "
                f"(nvidia-smi -L); try again in {(cost - left) / PER_S:.1f} s.",
                transient=True,
            )
        self._budgets.spend(uid, cost, now_s)
