"""Requests that share beginnings, and what a prefix cache finds of them one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.prefix_cache import PrefixCache
from voltana.values import Prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

Asked = tuple[Prefix, int]


def conversations(
    seed: int, *, count: int = 300, block_tokens: int = 16, topics: int = 12
) -> list[Asked]:
    """Prompts that go on where earlier ones of their topic ended, branched off, or began anew."""
    rng, fresh, known = np.random.default_rng(seed), iter(range(10**9)), [[] for _ in range(topics)]
    asked: list[Asked] = []
    for _ in range(count):
        topic = int(rng.zipf(1.5)) % topics
        history: list[int] = list(known[topic])
        if history and rng.random() < 0.4:
            history = history[: int(rng.integers(0, len(history) + 1))]
        history += [next(fresh) for _ in range(int(rng.integers(1, 6)))]
        known[topic] = history if rng.random() < 0.7 else known[topic]
        cut = int(rng.integers(0, block_tokens))
        asked.append((Prefix(tuple(history), block_tokens), len(history) * block_tokens - cut))
    return asked


def found_by_ours(
    asked: Sequence[Asked], capacity_tokens: float, page_tokens: int = 1
) -> list[int]:
    """Tokens found of each request, served one after the other in memory of a size."""
    cache, found = PrefixCache(page_tokens), []
    for prefix, tokens in asked:
        run = cache.match(prefix, tokens - 1)
        cache.lock(run)
        found.append(run.end)
        short = cache.tokens + tokens - run.end - capacity_tokens
        if short > 0:
            cache.evict(short)
        cache.insert(prefix, tokens)
        cache.unlock(run)
    return found
