"""What is known by now of the risk taken: figures that may be read at any time, again and again.

Theorem 1 of docs/guarantee.md needs no probability. These do: each certified label misses with some
probability given everything before it, and labels weigh alike. Then the wealth of a gambler who
bets on misses at fair odds for the probability p is a supermartingale as long as no label is more
likely to miss than p, and by Ville's inequality exceeds 1/d at any time with probability at most d
(G. Shafer, V. Vovk, "Game-Theoretic Foundations for Probability and Finance", 2019;
I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
2024).
"""

from __future__ import annotations

import math

CONFIDENCE = 0.95

_STAKES = tuple(2.0**-k for k in range(1, 13))
"""Shares of what may be staked at most; the wealth is their mean, so that none has to be chosen."""

_STEPS = 40


def log_wealth(missed: int, labels: int, probability: float, *, on_misses: bool) -> float:
    """Logarithm of the gambler's wealth after `labels`, of which `missed` were misses.

    Args:
        missed: Misses.
        labels: Labels, misses included.
        probability: At whose odds it bets, in (0, 1).
        on_misses: Whether it bets on misses, and wins where there are more than at `probability`.
    """
    hits, p = labels - missed, probability
    most = 1.0 / p if on_misses else -1.0 / (1.0 - p)
    logs = []
    for share in _STAKES:
        stake = share * most
        logs.append(missed * math.log1p(stake * (1.0 - p)) + hits * math.log1p(-stake * p))
    highest = max(logs)
    return highest + math.log(sum(math.exp(x - highest) for x in logs) / len(logs))


def evidence(missed: int, labels: int, alpha: float) -> float:
    """How strongly misses speak against at most `alpha` for each label: 20 is once in 20 at most.

    It is infinite where it exceeds what a float holds.
    """
    return math.exp(min(log_wealth(missed, labels, alpha, on_misses=True), 700.0))


def at_most(missed: int, labels: int, confidence: float = CONFIDENCE) -> float:
    """Probability that misses have not been as likely as throughout, at any time so far.

    The least p for which a gambler who bets against misses at the odds of p has won
    1/(1 - confidence); 1 before there is enough to tell.
    """
    needed = math.log(1.0 / (1.0 - confidence))
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if log_wealth(missed, labels, middle, on_misses=False) >= needed:
            high = middle
        else:
            low = middle
    return high
