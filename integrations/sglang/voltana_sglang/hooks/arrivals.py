"""Which requests an engine has taken up since last time, by the rooms of their transfers."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORD = 0xFFFFFFFFFFFFFFFF

WALKED = 4096
"""Requests that are looked at; what waits behind them is named when it has come nearer."""


class Arrivals:
    """Names each request once, when it is first seen.

    On a prefill server that is in the queue, for what waits counts as reported as well as what
    computes. A decode server merges transferred requests into its batch without a step of their
    own, so that they are found by comparing batches.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: frozenset[int] | set[int] = frozenset()

    def taken_up(self, requests: Iterable[Any] | None) -> Sequence[int]:
        """Rooms of requests that were not among those of last time.

        Args:
            requests: Those that are reported now; None if they are the same as last time.
        """
        if requests is None:
            return ()
        rooms = {
            room
            for request in islice(requests, WALKED)
            if (room := request.bootstrap_room) is not None
        }
        new = [room & _WORD for room in rooms - self._known]
        self._known = rooms
        return new
