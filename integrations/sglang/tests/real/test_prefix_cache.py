"""The plant's prefix cache finds and evicts what SGLang's own radix cache does, token by token."""

from __future__ import annotations

import warnings
from array import array
from typing import TYPE_CHECKING

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of its own code while it is imported
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import (
        EvictParams,
        InsertParams,
        MatchPrefixParams,
    )
    from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

from tests.prefix_oracle import Asked, conversations, found_by_ours

if TYPE_CHECKING:
    from collections.abc import Sequence


class Memory:
    """All that the tree asks of an allocator."""

    device = torch.device("cpu")

    def free_segment(self, _value: object, **_options: object) -> None:
        """The caller counts what is free."""


def tokens_of(asked: Asked) -> array[int]:
    prefix, tokens = asked
    block = prefix.block_tokens
    return array("q", (prefix.ids[at // block] * block + at % block for at in range(tokens)))


def found_by_sglang(asked: Sequence[Asked], capacity_tokens: float, page_tokens: int) -> list[int]:
    cache = RadixCache.create_simulated(mock_allocator=Memory(), page_size=page_tokens)
    found = []
    for request in asked:
        tokens = tokens_of(request)
        match = cache.match_prefix(MatchPrefixParams(key=RadixKey(tokens[: len(tokens) - 1])))
        cache.inc_lock_ref(match.last_device_node)
        found.append(match.device_prefix_len)
        short = cache.total_size() + len(tokens) - found[-1] - capacity_tokens
        if short > 0:
            cache.evict(EvictParams(num_tokens=int(short)))
        cache.insert(InsertParams(key=RadixKey(tokens)))
        cache.dec_lock_ref(match.last_device_node)
    return found


@pytest.mark.parametrize("page_tokens", [1, 4, 16, 24])
@pytest.mark.parametrize("capacity_tokens", [600, 3000, 10**9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_tokens_are_found(seed, capacity_tokens, page_tokens):
    asked = conversations(seed)
    ours = found_by_ours(asked, capacity_tokens, page_tokens)
    assert ours == found_by_sglang(asked, capacity_tokens, page_tokens)
    assert sum(ours) > 0
