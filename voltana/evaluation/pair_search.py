"""The best of the pairs of two clocks, from a few of them.

A grid of 28 levels each has 784 pairs, of which some forty can be simulated. That is enough
under these assumptions, each about one clock while the other stays:

- attainment does not fall when a clock rises, so that what is allowed begins at some clock (under a
  power budget it may, as other instances get less: there the search goes on where the fastest pair
  keeps too little, and scans the prefill clock as well);
- from there on energy over the prefill clock is unimodal: a slower clock saves until computing
  takes so long that idle power and thinner batches take it back;
- energy over the decode clock is unimodal between the clocks at which the router lets one more
  instance sleep, where it jumps.

So the decode clock is scanned, then searched around the best by Fibonacci search (J. Kiefer,
"Sequential minimax search for a maximum", Proc. AMS 4, 1953), the prefill clock by Fibonacci search
at once, and both once more near the pair that was found. The clocks are not independent (a slower
decode fills the KV cache, for which prefill then waits), so that the neighbours of the best pair
are tried until none is better. Where an instance may just sleep or not, chance decides which, and
no assumption helps: what is left of the runs goes to the other decode clocks, nearest first. The
tests hold the outcome against all pairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCANNED = 7
"""Clocks of a first scan."""

WINDOW = 3
"""Levels to either side of the pair found that are searched again."""

NEIGHBOURS = ((0, -1), (-1, 0), (-1, 1), (1, -1), (0, 1), (1, 0), (-1, -1))
"""Steps in the prefill and the decode level, those that usually save first."""

PREFILL, DECODE = 0, 1

Pair = tuple[int, int]
"""Indices of a prefill and of a decode level."""


class Score(NamedTuple):
    """How good a pair is; the smaller the better.

    Attributes:
        short: By how much its worst attainment falls short of what is allowed; 0 where none does.
        energy_j: Energy up to the end of static-max's run; of a longer one without its idle power.
        axis: Whose clock has to rise where it falls short: `PREFILL` or `DECODE`.
    """

    short: float
    energy_j: float
    axis: int = 0


class Pairs(Protocol):
    """What is searched.

    Attributes:
        size: Levels of prefill and of decode.
        rises: Whether attainment never falls when a clock rises, so that none keeps enough where
            the fastest does not.
    """

    size: Pair
    rises: bool

    def score(self, pair: Pair) -> Score:
        """The score of a pair; asked for again, it costs nothing."""
        ...


def search(pairs: Pairs) -> Pair:
    """The best pair that the runs reach; the fastest if none of them keeps enough."""
    best = approached(pairs)
    return _fastest(pairs) if pairs.score(best).short > 0 else _descended(pairs, best)


def approached(pairs: Pairs) -> Pair:
    """A pair near the best, by lines along either clock: where `refined` starts."""
    best = _fastest(pairs)
    if pairs.score(best).short > 0:
        if pairs.rises:
            return best
        best = _scanned(pairs, best, PREFILL)
    stride = _stride(pairs, DECODE)
    best = _scanned(pairs, best, DECODE)
    for axis, window in ((DECODE, stride - 1), (PREFILL, pairs.size[PREFILL])):
        best = _along(pairs, best, axis, window)
    for axis in (DECODE, PREFILL):
        best = _along(pairs, best, axis, WINDOW)
    return best


def refined(pairs: Pairs, start: Pair) -> Pair:
    """The best that the runs reach near a pair which was the best for a part of the requests.

    Where it keeps too little, the clock of the role that does rises by 1, 2, 4 ... levels until the
    pair keeps enough; the last of these steps is then halved to the slowest clock that does.
    """
    top = _fastest(pairs)
    below, best, steps = start, start, [1, 1]
    while best != top and (score := pairs.score(best)).short > 0:
        below = best
        axis = score.axis if best[score.axis] < top[score.axis] else 1 - score.axis
        risen = min(best[axis] + steps[axis], top[axis])
        best = (risen, best[DECODE]) if axis == PREFILL else (best[PREFILL], risen)
        steps[axis] *= 2
    if pairs.score(best).short > 0:
        return best if pairs.rises else search(pairs)
    return _descended(pairs, _halved(pairs, below, best))


def _fastest(pairs: Pairs) -> Pair:
    return pairs.size[PREFILL] - 1, pairs.size[DECODE] - 1


def _stride(pairs: Pairs, axis: int) -> int:
    return math.ceil(pairs.size[axis] / SCANNED)


def _scanned(pairs: Pairs, start: Pair, axis: int) -> Pair:
    """The best of some clocks of one role, from that of a pair down."""
    indices = range(start[axis], -1, -_stride(pairs, axis))
    line = [(at, start[DECODE]) if axis == PREFILL else (start[PREFILL], at) for at in indices]
    return min(line, key=pairs.score)


def _halved(pairs: Pairs, below: Pair, kept: Pair) -> Pair:
    """The better of `kept` and the slowest that keeps enough between it and `below`.

    The two differ in one clock, of which that of `below` keeps too little, or are one pair.
    """
    slowest = kept
    while max(slowest[PREFILL] - below[PREFILL], slowest[DECODE] - below[DECODE]) > 1:
        middle = (below[PREFILL] + slowest[PREFILL]) // 2, (below[DECODE] + slowest[DECODE]) // 2
        if pairs.score(middle).short > 0:
            below = middle
        else:
            slowest = middle
    return min(slowest, kept, key=pairs.score)


def _descended(pairs: Pairs, best: Pair) -> Pair:
    """The best after steps to better neighbours, then to any better decode clock."""
    better: Pair | None = best
    while better is not None:
        best = better
        others = (*_neighbours(pairs, best), *_other_decode_clocks(pairs, best))
        score = pairs.score(best)
        better = next((pair for pair in others if pairs.score(pair) < score), None)
    return best


def _along(pairs: Pairs, start: Pair, axis: int, window: int) -> Pair:
    """The best on the line through a pair along one axis, within so many levels of it."""

    def at(index: int) -> Pair:
        return (index, start[DECODE]) if axis == PREFILL else (start[PREFILL], index)

    low = max(start[axis] - window, 0)
    high = min(start[axis] + window, pairs.size[axis] - 1)
    found = at(fibonacci_search(low, high, lambda index: pairs.score(at(index))))
    return min(found, start, key=pairs.score)


def fibonacci_search(low: int, high: int, score: Callable[[int], Score]) -> int:
    """The index of the best score in [`low`, `high`].

    Up to some index scores fall short, where one has to look above; from there on they are
    unimodal. What lies beyond `high` is never asked for, so that the range may have any length.
    """
    part, whole = 1, 2
    while whole - 1 < high - low + 1:
        part, whole = whole, part + whole
    before = low - 1  # what is left is the whole - 1 indices after it
    while whole > 2:
        left, right = before + whole - part, before + part
        if right <= high and (score(left).short > 0 or score(right) < score(left)):
            before = left
        part, whole = whole - part, part
    return before + 1


def _neighbours(pairs: Pairs, pair: Pair) -> Iterator[Pair]:
    for move in NEIGHBOURS:
        prefill, decode = pair[0] + move[0], pair[1] + move[1]
        if 0 <= prefill < pairs.size[0] and 0 <= decode < pairs.size[1]:
            yield prefill, decode


def _other_decode_clocks(pairs: Pairs, pair: Pair) -> list[Pair]:
    """Pairs with the same prefill clock, the nearest decode clocks first."""
    clocks = sorted(range(pairs.size[DECODE]), key=lambda index: abs(index - pair[DECODE]))
    return [(pair[PREFILL], index) for index in clocks[1:]]
