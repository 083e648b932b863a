"""From what waits in an engine to the queue that a controller sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from voltana.values import MAX_DEADLINE_BUCKETS, DeadlineBucket, Queue, attended_pairs

if TYPE_CHECKING:
    from voltana.serving.ring_reader import Record, Waiting


def queue_of(record: Record, *, ttft_s: float, max_batch_tokens: int, now_s: float) -> Queue:
    """The queue behind an iteration.

    Args:
        record: What the engine wrote.
        ttft_s: Threshold of the time to first token, from which deadlines follow.
        max_batch_tokens: Prompt tokens of one iteration.
        now_s: The current time, on the record's axis.
    """
    waited_s = now_s - record.oldest_s
    return Queue(
        requests=record.waiting_requests,
        tokens=record.waiting_tokens,
        oldest_wait_s=waited_s if waited_s > 0 else 0.0,
        deadlines=_buckets(record, ttft_s, max(max_batch_tokens, 1)),
    )


def _buckets(record: Record, ttft_s: float, limit: int) -> tuple[DeadlineBucket, ...]:
    """One bucket for each batch that the engine will form, in its order."""
    buckets: list[DeadlineBucket] = []
    tokens, pairs, filled, batches = 0, 0.0, 0, 0
    deadline_s = math.inf
    for waiting in record.waiting:
        if filled and filled + waiting.new_tokens > limit:
            buckets.append(_bucket(deadline_s, tokens, pairs, batches))
            filled, deadline_s = 0, math.inf
        if not filled:
            batches += 1
        filled += waiting.new_tokens
        # A prompt longer than a batch is computed in chunks.
        batches += max(0, math.ceil(filled / limit) - 1) if filled > limit else 0
        filled = filled % limit if filled > limit else filled
        tokens += waiting.new_tokens
        pairs += attended_pairs(waiting.new_tokens, waiting.done_tokens)
        deadline_s = min(deadline_s, _arrival_s(waiting, record) + ttft_s)
    if record.waiting:
        buckets.append(_bucket(deadline_s, tokens, pairs, batches))
    hidden = record.waiting_tokens - tokens
    if buckets and hidden > 0:
        # They arrived after those that are listed: their deadlines are not earlier.
        share = hidden / max(tokens, 1)
        more = math.ceil(hidden / limit)
        buckets.append(_bucket(deadline_s, tokens + hidden, pairs * (1 + share), batches + more))
    return _merged(buckets)


def _bucket(deadline_s: float, tokens: int, pairs: float, batches: int) -> DeadlineBucket:
    return DeadlineBucket(
        deadline_s=deadline_s,
        cumulative_tokens=tokens,
        cumulative_attended_pairs=pairs,
        cumulative_batches=batches,
    )


def _merged(buckets: list[DeadlineBucket]) -> tuple[DeadlineBucket, ...]:
    """At most `MAX_DEADLINE_BUCKETS`: the last ones share the earliest deadline of theirs."""
    if len(buckets) <= MAX_DEADLINE_BUCKETS:
        return tuple(buckets)
    kept, rest = buckets[: MAX_DEADLINE_BUCKETS - 1], buckets[MAX_DEADLINE_BUCKETS - 1 :]
    last = rest[-1]
    earliest_s = min(bucket.deadline_s for bucket in rest)
    return (
        *kept,
        _bucket(
            earliest_s,
            last.cumulative_tokens,
            last.cumulative_attended_pairs,
            last.cumulative_batches,
        ),
    )


def _arrival_s(waiting: Waiting, record: Record) -> float:
    """Where the engine did not note the arrival, the record's time is the latest that it can be."""
    return waiting.arrived_s if waiting.arrived_s > 0 else record.at_s
