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

import numpy as np

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
    below = np.arange(1.0, min(places, math.ceil(_FURTHEST * (math.sqrt(places) + 1.0))) + 1.0)
    factorials = np.log(places + 1.0 - below).cumsum()  # ln N! / n!, for n = N - 1, N - 2, ...

    def too_many(part: int) -> bool:
        mean = places * part / _PARTS
        exponents = np.minimum(factorials - below * math.log(mean), _LARGEST_EXPONENT)
        return bool(np.exp(exponents).sum() < enough)

    return places * bisect_left(range(1, _PARTS + 1), True, key=too_many) / _PARTS
