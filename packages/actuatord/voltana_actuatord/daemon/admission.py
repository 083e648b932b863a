"""Who may be connected: quotas by user, an idle limit, and a reserved place for the operator.

A user may hold half of the places. Where all are taken, one who holds few gets the place of
somebody who holds more and is not controlling anything through it. The daemon's own user is not
counted, and takes nobody's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from voltana_actuatord.daemon.connections import Connection


class Admission:
    """Decides who gets a place.

    Args:
        max_connections: Places, without the reserved ones.
        idle_s: How long a connection without a lease may say nothing.
        own_uid: The daemon's own user.
    """

    def __init__(self, max_connections: int, idle_s: float, own_uid: int) -> None:
        self._max = max_connections
        self._idle_s = idle_s
        self._own_uid = own_uid

    def full(self, uid: int, connections: Collection[Connection]) -> bool:
        """Whether a user has all the places that it may have."""
        mine = sum(1 for one in connections if one.peer.uid == uid)
        return mine >= max(1, self._max // 2)

    def must_yield(
        self, uid: int, connections: Collection[Connection], controls: Callable[[Connection], bool]
    ) -> tuple[bool, Connection | None]:
        """Whether a user gets a place, and who has to leave for it.

        Args:
            uid: The user.
            connections: All of them.
            controls: Whether a connection has a lease that holds its GPUs.
        """
        others = [one for one in connections if one.peer.uid != self._own_uid]
        if uid == self._own_uid or len(others) < self._max:
            return True, None
        counts: dict[int, int] = {}
        for one in others:
            counts[one.peer.uid] = counts.get(one.peer.uid, 0) + 1
        idle = [one for one in others if not controls(one)]
        if not idle:
            return False, None
        victim = max(idle, key=lambda one: (counts[one.peer.uid], -one.heard_s))
        fair = counts[victim.peer.uid] > counts.get(uid, 0) + 1
        return fair, victim if fair else None

    def idle(
        self,
        connections: Collection[Connection],
        controls: Callable[[Connection], bool],
        now_s: float,
    ) -> list[Connection]:
        """Connections that have been silent too long, and control nothing."""
        return [
            one for one in connections if now_s - one.heard_s > self._idle_s and not controls(one)
        ]
