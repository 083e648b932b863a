"""What waits behind an iteration, as a ring tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from voltana_ring.layout import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NAN = float("nan")

WALKED = 64
"""Requests of a long queue whose tokens are summed; the others count as long as these on average.
"""


class QueueView(NamedTuple):
    """The queue behind an iteration.

    Attributes:
        requests: How many wait.
        tokens: Their tokens that are not in the prefix cache.
        oldest_s: Arrival of the first of them; nan where none waits.
        entries: Arrival, tokens to compute, tokens before them: three numbers for each of the
            first requests, in the engine's order.
    """

    requests: int
    tokens: int
    oldest_s: float
    entries: list[float]


NOTHING = QueueView(0, 0, _NAN, [])


def view_of(
    waiting: Sequence[Any], read: Callable[[int, Any], tuple[float, int, int]], size: int
) -> QueueView:
    """A queue by its first requests.

    Args:
        waiting: Its first `WALKED` requests, at least one.
        read: Arrival, tokens to compute and tokens before them of a request, by its place.
        size: How many wait in all.
    """
    tokens, oldest_s = 0, _NAN
    entries: list[float] = []
    for index, request in enumerate(waiting):
        arrived_s, left, done = read(index, request)
        tokens += left
        oldest_s = earlier(oldest_s, arrived_s)
        if index < MAX_ENTRIES:
            entries += (arrived_s, left, done)
    return QueueView(size, tokens * size // len(waiting), oldest_s, entries)


def earlier(one_s: float, other_s: float) -> float:
    """The earlier of two times, either of which may be nan: not noted."""
    return other_s if other_s < one_s or one_s != one_s else one_s  # noqa: PLR0124
