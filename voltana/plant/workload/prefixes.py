"""What the prompts of a trace share: the numbers of their blocks, for all requests together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import TraceError
from voltana.values import Prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

IntArray = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefixes:
    """Blocks of the prompts of a trace.

    Attributes:
        ids: Those of the first request, then those of the second, ...; shape (m,).
        starts: Where those of each request begin, and where the last ones end; shape (n + 1,).
        block_tokens: Tokens of a block.
    """

    ids: IntArray
    starts: IntArray
    block_tokens: int

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise TraceError("block_tokens must be at least 1 token. Mooncake's blocks have 512.")
        if len(self.starts) == 0 or self.starts[0] != 0 or self.starts[-1] != len(self.ids):
            raise TraceError("starts must run from 0 to the number of ids. Count them again.")

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]], block_tokens: int) -> Prefixes:
        """From the blocks of each request."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        flat = np.fromiter((i for ids in lists for i in ids), np.int64, int(lengths.sum()))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(ids=flat, starts=starts, block_tokens=block_tokens)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, index: int) -> Prefix:
        """The blocks of a request."""
        first, end = self.starts[index], self.starts[index + 1]
        return Prefix(tuple(self.ids[first:end].tolist()), self.block_tokens)

    def take(self, indices: IntArray) -> Prefixes:
        """Those of some requests, in this order."""
        lengths = np.diff(self.starts)[indices]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        moved = np.repeat(self.starts[indices] - starts[:-1], lengths)
        moved += np.arange(len(moved))
        return Prefixes(ids=self.ids[moved], starts=starts, block_tokens=self.block_tokens)
