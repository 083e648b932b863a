"""What an engine computes, and what waits behind it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.quick import maker, quickly_made

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEADLINE_BUCKETS = 32
"""A queue is reported in at most this many buckets, however long it is."""


class Phase(enum.StrEnum):
    """What an iteration computes."""

    IDLE = "idle"
    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


_PREFILL, _DECODE = Phase.PREFILL, Phase.DECODE
"""Looked up once for every load: before Python 3.12 a member takes longer than a call."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one engine iteration computes; a mixed batch has all four parts.

    Attributes:
        prefill_tokens: New prompt tokens, summed over requests.
        prefill_attended_pairs: Query-key pairs that causal attention computes for those tokens:
            the sum over requests of new tokens times their mean context, that is
            ``new * cached + new * (new + 1) / 2``. It tells 4 x 8k from 32 x 1k.
        decode_requests: Requests that each produce one token.
        decode_kv_tokens: Tokens in their KV caches, summed.
    """

    prefill_tokens: int = 0
    prefill_attended_pairs: float = 0.0
    decode_requests: int = 0
    decode_kv_tokens: int = 0

    @classmethod
    def prefill(cls, chunks: Iterable[tuple[int, int]]) -> Load:
        """Build the load of a prefill batch.

        Args:
            chunks: A pair ``(new_tokens, cached_tokens)`` for each request.
        """
        tokens, pairs = 0, 0.0
        for new, cached in chunks:
            tokens += new
            pairs += attended_pairs(new, cached)
        return make_load(prefill_tokens=tokens, prefill_attended_pairs=pairs)

    @classmethod
    def decode(cls, requests: int, kv_tokens: int) -> Load:
        """Build the load of a decode batch of `requests` with `kv_tokens` in their caches."""
        return make_load(decode_requests=requests, decode_kv_tokens=kv_tokens)

    @property
    def phase(self) -> Phase:
        """The phase that this load belongs to."""
        if self.prefill_tokens and self.decode_requests:
            return Phase.MIXED
        if self.prefill_tokens:
            return _PREFILL
        return _DECODE if self.decode_requests else Phase.IDLE


make_load = maker(Load)


def attended_pairs(new_tokens: int, cached_tokens: int = 0) -> float:
    """Query-key pairs of causal attention for `new_tokens` after `cached_tokens` of one request."""
    return new_tokens * cached_tokens + new_tokens * (new_tokens + 1) / 2


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineBucket:
    """Work of a prefill queue that must be done by a deadline, cumulative from the queue's front.

    Attributes:
        deadline_s: Earliest deadline in the bucket, on the observation's time axis.
        cumulative_tokens: Prompt tokens of this and all earlier buckets.
        cumulative_attended_pairs: Attended pairs of this and all earlier buckets.
        cumulative_batches: Engine iterations that this and all earlier buckets take.
    """

    deadline_s: float
    cumulative_tokens: int
    cumulative_attended_pairs: float
    cumulative_batches: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests that wait, not counting those in the batch that is about to run.

    Behind a prefill batch, or for room in the KV cache of a decode instance; not in transfer.

    Attributes:
        requests: Number of waiting requests.
        tokens: Their prompt tokens (prefill) or context tokens (decode).
        oldest_wait_s: Time since the arrival of the request that has waited longest, those of the
            batch included: it is what is gone of the TTFT budget.
        deadlines: At most `MAX_DEADLINE_BUCKETS` conservative buckets over the batches that the
            engine will form, in its order; empty where deadlines are unknown.
    """

    requests: int = 0
    tokens: int = 0
    oldest_wait_s: float = 0.0
    deadlines: tuple[DeadlineBucket, ...] = ()


EMPTY_QUEUE = Queue()
