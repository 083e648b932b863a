"""Pauses that double from a first one to a last one."""

from __future__ import annotations


class Backoff:
    """How long to wait before the next try.

    Args:
        first_s: The first pause.
        last_s: The longest one.
    """

    __slots__ = ("_first_s", "_last_s", "_next_s")

    def __init__(self, first_s: float, last_s: float) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause that is due; the one after it is twice as long."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._last_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._next_s = self._first_s
