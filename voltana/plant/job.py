"""A request on its way through the cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.values import Prefix


class Job:
    """One request; the only mutable thing that instances hand to each other.

    Attributes:
        index: Its place in the trace.
        arrival_s: When it arrived.
        prompt_tokens: Length of its prompt.
        output_tokens: Tokens that it will produce, which no policy is told.
        prefill: Index of its prefill instance, chosen at arrival.
        decode: Index of its decode instance, chosen at arrival, or late; -1 before.
        colocated: Index of the instance that serves both phases of it; -1 for a pair.
        prefilled_tokens: Prompt tokens done.
        produced_tokens: Output tokens done when it last joined a decode batch.
        joined_at_iteration: Iteration of the decode instance at which it did.
        first_token_s: When its first token was delivered.
        last_token_s: When its last token so far was delivered, as far as it is not in a batch.
        completed_s: When it was finished.
        prefix: By what its prompt may be found in a prefix cache; None where nothing says it.
        cached_tokens: Prompt tokens that need not be computed: as the trace says at first, and as
            they were found when its prefill began.
    """

    __slots__ = (
        "arrival_s",
        "cached_tokens",
        "colocated",
        "completed_s",
        "decode",
        "first_token_s",
        "index",
        "joined_at_iteration",
        "last_token_s",
        "output_tokens",
        "prefill",
        "prefilled_tokens",
        "prefix",
        "produced_tokens",
        "prompt_tokens",
    )

    def __init__(
        self,
        index: int,
        arrival_s: float,
        prompt_tokens: int,
        output_tokens: int,
        *,
        prefix: Prefix | None = None,
        cached_tokens: int = 0,
    ) -> None:
        self.index = index
        self.arrival_s = arrival_s
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.prefill = -1
        self.decode = -1
        self.colocated = -1
        self.prefilled_tokens = 0
        self.produced_tokens = 1
        self.joined_at_iteration = -1
        self.first_token_s = math.inf
        self.last_token_s = math.inf
        self.completed_s = math.inf
        self.prefix = prefix
        self.cached_tokens = cached_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens of its KV cache when it last joined a decode batch."""
        return self.prompt_tokens + self.produced_tokens


def oldest_s(jobs: Iterable[Job]) -> float:
    """Arrival of the job that has waited longest; one that was held comes out of its order.

    inf where there is none.
    """
    return min([job.arrival_s for job in jobs], default=math.inf)
