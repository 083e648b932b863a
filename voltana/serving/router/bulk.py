"""Lets long answers in at a pace that leaves the router's loop to everybody else.

Reading takes some 2 ms of the loop by megabyte. A server that sends without end, or many that send
much at once, would have the loop to themselves, piece by piece, however short each piece is; what a
server sends beyond `AT_ONCE` waits its turn, all such answers in one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 1 << 27
"""Bytes a second of all long answers together: a quarter of a core, at 2 ms by megabyte."""

AT_ONCE = 1 << 18
"""Bytes of each answer that do not wait."""

PIECE = 1 << 14
"""A shorter piece does not wait: that of a stream, whose tokens come one by one."""

WORTH_S = 1e-3
"""A shorter wait is left to the next piece."""


class Bulk:
    """The line of long answers.

    Args:
        now_s: Time of the loop.
    """

    __slots__ = ("_free_s", "_now_s")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._free_s = 0.0

    def wait_s(self, size: int, before: int) -> float:
        """How long an answer has to wait before more of it is read; 0 for not at all.

        Args:
            size: Bytes of the piece that was read.
            before: Bytes of that answer that were read before.
        """
        if size < PIECE or before + size <= AT_ONCE:
            return 0.0
        now_s = self._now_s()
        self._free_s = max(self._free_s, now_s) + size / RATE
        left_s = self._free_s - now_s
        return left_s if left_s >= WORTH_S else 0.0
