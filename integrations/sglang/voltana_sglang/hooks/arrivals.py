"""Which requests an engine has taken up since last time, by the rooms of their transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.layout import MAX_ROOMS

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD = 0xFFFFFFFFFFFFFFFF


class Arrivals:
    """Names each request once, when it is first seen in a batch.

    A decode server merges transferred requests into its batch without a step of their own, so that
    they are found by comparing batches.
    """

    __slots__ = ("_known", "_pending")

    def __init__(self) -> None:
        self._known: frozenset[int] | set[int] = frozenset()
        self._pending: list[int] = []

    def taken_up(self, requests: Sequence[Any] | None) -> Sequence[int]:
        """Rooms of requests that were not in the batch before, at most `MAX_ROOMS` of them.

        Args:
            requests: Those of the batch; None if they are the same as last time.
        """
        if requests is not None:
            rooms = {room for request in requests if (room := request.bootstrap_room) is not None}
            self._pending += [room & _WORD for room in rooms - self._known]
            self._known = rooms
        if not self._pending:
            return ()
        now, self._pending = self._pending[:MAX_ROOMS], self._pending[MAX_ROOMS:]
        return now
