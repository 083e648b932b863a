"""How large a batch may be on average where requests that find no place in it have to wait.

Requests arrive by chance at a batch of N places and stay until they are answered: an M/M/N queue,
in which the fastest level runs as long as somebody waits. Where all find a place at once, a of them
are there on average, and as many as are there are Poisson distributed up to N. Beyond it they fall
off by the share rho of what the fastest level serves that is demanded. So the share that waits is

    C = 1 / (1 + (1 - rho) q),     q = sum of a^(n - N) N! / n! over n < N

(A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in
automatic telephone exchanges", 1917, where rho is a / N as all run alike), and for longer than t
seconds waits ``C exp(-t (most - demand) / L)``: with what the fastest level serves in a full batch
and what is demanded in tokens/s, and L tokens an answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from voltana.values import FloatArray

_PARTS = 1024
"""Means are told apart by such a part of the places."""

_FURTHEST = 8.0
"""States that lie so many standard deviations and more below a full batch are left out."""

_LARGEST_EXPONENT = 700.0


def most_on_average(
    places: int, demand_per_s: float, most_per_s: float, *, late: float, affordable: float
) -> float:
    """The largest mean batch of which at most a share waits for a place for too long.

    Args:
        places: N, what memory or engine hold, in requests.
        demand_per_s: Tokens/s that are wanted.
        most_per_s: What the fastest level serves with all places taken.
        late: The share that may wait longer; 1 lets all.
        affordable: Requests that may wait for each token/s that the fastest level serves: what
            one may wait over the tokens of an answer, t / L.

    Returns:
        Requests, at most `places`.
    """
    spare_per_s = most_per_s - demand_per_s
    if not spare_per_s > 0.0:
        return 0.0 if late < 1.0 else float(places)
    waiting = late * math.exp(min(affordable * spare_per_s, _LARGEST_EXPONENT))
    if waiting >= 1.0:
        return float(places)
    enough = (1.0 / waiting - 1.0) * most_per_s / spare_per_s
    states = _BelowFull.of(places)

    def too_many(part: int) -> bool:
        return states.over_full(places * part / _PARTS) < enough

    return places * bisect_left(range(1, _PARTS + 1), True, key=too_many) / _PARTS


def late_share(
    places: int, mean: float, demand_per_s: float, most_per_s: float, *, affordable: float
) -> float:
    """The share of the requests that wait for a place for too long, where so many run on average.

    Args:
        places: See `most_on_average`.
        mean: a, in requests; all wait where that is as many as there are places.
        demand_per_s: Likewise.
        most_per_s: Likewise.
        affordable: Likewise.
    """
    spare_per_s = most_per_s - demand_per_s
    if not spare_per_s > 0.0 or mean >= places:
        return 1.0
    if not mean > 0.0:
        return 0.0
    below = _BelowFull.of(places).over_full(mean) * spare_per_s / most_per_s
    return math.exp(-min(affordable * spare_per_s, _LARGEST_EXPONENT)) / (1.0 + below)


class _BelowFull(NamedTuple):
    """The states in which a place is free.

    Attributes:
        free: Free places of each, from 1 on, shape (s,).
        factorials: ln of N! / n!, for n = N - 1, N - 2, ..., likewise.
    """

    free: FloatArray
    factorials: FloatArray

    @classmethod
    def of(cls, places: int) -> _BelowFull:
        """Those of so many places that count."""
        most = min(places, math.ceil(_FURTHEST * (math.sqrt(places) + 1.0)))
        free = np.arange(1.0, most + 1.0)
        return cls(free, np.log(places + 1.0 - free).cumsum())

    def over_full(self, mean: float) -> float:
        """q: how much likelier they are together than the one in which all places are taken."""
        exponents = self.factorials - self.free * math.log(mean)
        return float(np.exp(np.minimum(exponents, _LARGEST_EXPONENT)).sum())
