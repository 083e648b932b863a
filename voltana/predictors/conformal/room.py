"""How many KV tokens a decode batch has room for at a clock: a bound on a line, solved for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.promise import bound_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.predictors.conformal.snapshot import MeanLine

MOST = 2**53
"""Beyond it, integers are no plain numbers."""


def most_within(line: MeanLine, quantile: float, offset_s: float, budget_s: float) -> int:
    """Most tokens with which the bound on a mean keeps a finite budget; -1 where none does.

    The bound never falls with the tokens, rounding included. So what the line solves for is put
    right by asking for the very bound: a token more or less decides as a search would.

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
    span_s = most_s - fixed_s
    if not span_s > -math.inf:  # no budget, or no mean
        return -1
    if span_s >= MOST * token_s or not token_s > 0.0:  # any number of tokens takes the same
        return MOST if fits(0) else -1
    return _last(fits, math.floor(max(span_s, -token_s) / token_s))


def _last(fits: Callable[[int], bool], near: int) -> int:
    """The last number from 0 on that fits, where all before it do; -1 if not even 0 does.

    Args:
        fits: Whether a number fits.
        near: Where it probably is; the steps away from it double.
    """
    low, high, step = near, near + 1, 1
    while low >= 0 and not fits(low):
        low, high, step = low - step, low, 2 * step
    while fits(high):
        low, high, step = high, high + step, 2 * step
    low = max(low, -1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
