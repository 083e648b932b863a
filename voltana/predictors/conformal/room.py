"""How many KV tokens a decode batch has room for at a clock: a bound on a line, solved for them."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Protocol

from voltana.promise import bound_on

MOST = 2**53
"""Beyond it, integers are no plain numbers."""


class MeanLine(Protocol):
    """Expected latency of a decode batch, with whose KV tokens it never falls."""

    @property
    def fixed_s(self) -> float:
        """Without any."""
        ...

    @property
    def token_s(self) -> float:
        """For each, up to rounding."""
        ...

    def mean_s(self, kv_tokens: float) -> float:
        """Expected latency with so many."""
        ...


def most_within(line: MeanLine, quantile: float, offset_s: float, budget_s: float) -> int:
    """Most tokens with which the bound on a mean keeps a finite budget; -1 where none does.

    The bound never falls with the tokens, rounding included. So what the line solves for is held
    against the very bound, and searched for where rounding is as wide as a token or more: where a
    learned model has found next to nothing, or nothing, that a token in the cache costs.

    Args:
        line: The mean.
        quantile: q of the bound.
        offset_s: m0 of the bound.
        budget_s: What it may take.
    """
    fixed_s, token_s, mean_s = line.fixed_s, line.token_s, line.mean_s

    def fits(tokens: int) -> bool:
        expected_s = mean_s(tokens)
        return expected_s <= budget_s and bound_on(expected_s, quantile, offset_s) <= budget_s

    if not quantile < math.inf:
        return -1
    most_s = min(budget_s, (budget_s - quantile * offset_s) / (1.0 + quantile))
    span_s = max(most_s - fixed_s, 0.0)
    if span_s < MOST * token_s:
        tokens = math.floor(span_s / token_s)
        if fits(tokens) and not fits(tokens + 1):  # mostly
            return tokens
    if not fits(0):
        return -1
    return bisect_left(range(1, MOST + 1), True, key=lambda tokens: not fits(tokens))
