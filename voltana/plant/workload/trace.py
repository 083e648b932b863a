"""The request trace: the only form in which a workload reaches the plant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import TraceError

if TYPE_CHECKING:
    from voltana.plant.workload.prefixes import Prefixes
    from voltana.values import FloatArray

IntArray = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        arrival_s: Shape (n,), ascending, seconds from the trace's start.
        prompt_tokens: Shape (n,), at least 1.
        output_tokens: Shape (n,), at least 1.
        prefixes: What their prompts share; None where the trace does not say.
        cached_tokens: Prompt tokens that were found in a cache where the trace was recorded, shape
            (n,); None where it does not say.

    Raises:
        TraceError: If it is empty, its shapes differ, or a value is out of range.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    prefixes: Prefixes | None = None
    cached_tokens: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.arrival_s)
        if n == 0:
            raise TraceError("the trace holds no request. Check the file, window and filters.")
        if len(self.prompt_tokens) != n or len(self.output_tokens) != n:
            raise TraceError("arrival_s, prompt_tokens and output_tokens differ in length.")
        if self.prefixes is not None and len(self.prefixes) != n:
            raise TraceError("prefixes must have one entry a request. Give the blocks of all.")
        if self.cached_tokens is not None and len(self.cached_tokens) != n:
            raise TraceError("cached_tokens must have one entry a request. Give 0 where none were.")
        if self.arrival_s[0] < 0 or np.any(np.diff(self.arrival_s) < 0):
            raise TraceError("arrival_s must be at least 0 s and ascending. Sort the requests.")
        if self.prompt_tokens.min() < 1 or self.output_tokens.min() < 1:
            raise TraceError("token counts must be at least 1. Drop or clip the other requests.")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def shares(self) -> str:
        """By what the trace says that prompts share beginnings: a column's name, or nothing."""
        if self.prefixes is not None:
            return "hash_ids"
        return "" if self.cached_tokens is None else "cached_tokens"
