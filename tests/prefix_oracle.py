"""Requests that share beginnings, and what a prefix cache finds of them one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.prefix_cache import PrefixCache
from voltana.values import Prefix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class _Token:
    """A token in a memory that is kept token by token.

    Attributes:
        after: Tokens that followed it.
        before: The token that it followed; None of the first.
        heads: Whether a run begins with it, which is given up as a whole.
        used: When the run that it heads was used last.
        held: Whether the request that is being served uses it.
    """

    def __init__(self, before: _Token | None, *, heads: bool, used: int) -> None:
        self.after: dict[tuple[int, int], _Token] = {}
        self.before, self.heads, self.used, self.held = before, heads, used, False


class _Lru:
    """Least recently used leaves first, over single tokens; searched anew at each eviction."""

    def __init__(self) -> None:
        self.root, self.count, self.now = _Token(None, heads=True, used=0), 0, 0

    def find(self, tokens: list[tuple[int, int]]) -> tuple[_Token, int]:
        """The last token that is there and how many are; where a run is left, it is cut."""
        at, found, head = self.root, 0, self.root
        self.now += 1
        for token in tokens:
            known = at.after.get(token)
            if known is None:
                break
            at, found = known, found + 1
            if at.heads:
                head, at.used = at, self.now
        if at is not self.root and len(at.after) == 1:
            (next_one,) = at.after.values()
            if not next_one.heads:
                next_one.heads, next_one.used = True, head.used
                self.now += 1
                head.used = self.now
        return at, found

    def add(self, tokens: list[tuple[int, int]]) -> None:
        at, found = self.find(tokens)
        self.now += 1
        for number, token in enumerate(tokens[found:]):
            at.after[token] = _Token(at, heads=not number, used=self.now)
            at = at.after[token]
            self.count += 1

    def give_up(self, tokens: int) -> None:
        while tokens > 0:
            free = [head for head, last in self._leaves() if not last.held]
            if not free:
                return
            oldest = min(free, key=lambda head: head.used)
            gone, at = 1, oldest
            while at.after:
                (at,) = at.after.values()
                gone += 1
            assert oldest.before is not None
            oldest.before.after = {k: v for k, v in oldest.before.after.items() if v is not oldest}
            self.count -= gone
            tokens -= gone

    def _leaves(self) -> Iterator[tuple[_Token, _Token]]:
        """The first and the last token of each run that nothing follows."""
        pending = [(head, head) for head in self.root.after.values()]
        while pending:
            head, at = pending.pop()
            while len(at.after) == 1 and not next(iter(at.after.values())).heads:
                (at,) = at.after.values()
            if not at.after:
                yield head, at
            pending += [(one, one) for one in at.after.values()]


def found_by_lru(asked: Sequence[Asked], capacity_tokens: float) -> list[int]:
    """The same as `found_by_ours`, of a memory that shares nothing with it: one token at a time."""
    memory, found = _Lru(), []
    for prefix, tokens in asked:
        known = min(tokens, len(prefix.ids) * prefix.block_tokens)
        block = prefix.block_tokens
        text = [(prefix.ids[at // block], at % block) for at in range(known)]
        at, there = memory.find(text[: tokens - 1])
        found.append(there)
        held = []
        while at.before is not None:
            held.append(at)
            at.held, at = True, at.before
        memory.give_up(memory.count + tokens - there - capacity_tokens)
        memory.add(text)
        for one in held:
            one.held = False
    return found
