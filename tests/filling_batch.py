"""An instance that starts empty, is sent requests by chance, and answers a token an iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Lengths = Callable[[np.random.Generator, int], Sequence[int]]


class Iteration(NamedTuple):
    """What runs in an iteration, and how many of it end with it."""

    at_s: float
    produced: list[int]  # by each request so far, tokens
    ended: int


def filling(
    lengths: Lengths, *, per_s: float, seconds: float, iteration_s: float, seed: int
) -> Iterator[Iteration]:
    """Iterations of an instance that ``per_s`` requests a second join.

    Args:
        lengths: Tokens of so many answers, at least one each.
        per_s: Mean of the Poisson arrivals.
        seconds: How long.
        iteration_s: Of one iteration.
        seed: Of arrivals and lengths.
    """
    random = np.random.default_rng(seed)
    running: list[tuple[int, int]] = []
    for step in range(round(seconds / iteration_s)):
        joined = random.poisson(per_s * iteration_s)
        running += [(0, int(length)) for length in lengths(random, joined)]
        produced = [done for done, _ in running]
        going_on = [(done + 1, length) for done, length in running if done + 1 < length]
        yield Iteration(step * iteration_s, produced, len(running) - len(going_on))
        running = going_on


def exponential(mean_tokens: float) -> Lengths:
    """Answers that may end with each token alike."""

    def lengths(random: np.random.Generator, count: int) -> Sequence[int]:
        return [max(int(x), 1) for x in random.exponential(mean_tokens, count)]

    return lengths
