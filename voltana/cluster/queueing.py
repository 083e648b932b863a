"""From what waits behind an iteration to the queue that a controller sees.

Deadlines are grouped by the batches that the engine will form. An engine with chunked prefill fills
each batch to its last token, and cuts the prompt that does not fit: batches follow from the queue's
order and the size of a batch alone. A batch is due when the first of the prompts that it works on
is due, whether or not it ends there: a prompt that ends in a later batch needs all earlier ones, so
that no deadline is met late. Batches beyond the last bucket are merged into it, and it keeps the
earliest of their deadlines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from voltana.values import (
    EMPTY_QUEUE,
    MAX_DEADLINE_BUCKETS,
    DeadlineBucket,
    Queue,
    attended_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Waiting(NamedTuple):
    """A request that waits.

    Attributes:
        arrived_s: When it arrived; nan where that was not noted.
        new_tokens: Tokens still to be computed.
        done_tokens: Tokens before them.
    """

    arrived_s: float
    new_tokens: int
    done_tokens: int


def queue_behind(
    waiting: Sequence[tuple[float, int, int]] = (),
    *,
    requests: int,
    tokens: int,
    oldest_s: float,
    now_s: float,
    ttft_s: float = math.inf,
    max_batch_tokens: int = 1,
) -> Queue:
    """The queue behind an iteration.

    Args:
        waiting: Those that wait, in the engine's order, as `Waiting` has it: all, or the first of
            them. None where their deadlines do not matter, as behind a decode batch.
        requests: How many wait.
        tokens: Their tokens.
        oldest_s: Arrival of the one that has waited longest, those of the batch included; nan
            where there is none.
        now_s: The current time, on the same axis.
        ttft_s: Threshold of the time to first token, from which deadlines follow.
        max_batch_tokens: Prompt tokens of one iteration.
    """
    waited_s = now_s - oldest_s
    if not waited_s > 0:
        if not requests:
            return EMPTY_QUEUE
        waited_s = 0.0
    return Queue(
        requests=requests,
        tokens=tokens,
        oldest_wait_s=waited_s,
        deadlines=deadline_buckets(
            waiting,
            max_batch_tokens=max_batch_tokens,
            ttft_s=ttft_s,
            total_tokens=tokens,
            unnoted_s=min(now_s, oldest_s),
        )
        if waiting
        else (),
    )


def deadline_buckets(
    waiting: Iterable[tuple[float, int, int]],
    *,
    max_batch_tokens: int,
    ttft_s: float,
    total_tokens: int = 0,
    unnoted_s: float = 0.0,
) -> tuple[DeadlineBucket, ...]:
    """The batches that the engine will form of a queue, each with its earliest deadline.

    Args:
        waiting: The queue, or its front, in the engine's order.
        max_batch_tokens: Tokens of one batch.
        ttft_s: Threshold of the time to first token.
        total_tokens: Tokens of the whole queue. Those that are not listed came later, so that they
            are due no earlier than the last batch, and are added to it.
        unnoted_s: What an arrival counts as that was not noted.

    Returns:
        At most `MAX_DEADLINE_BUCKETS`.
    """
    limit = max(max_batch_tokens, 1)
    buckets: list[DeadlineBucket] = []
    tokens, pairs, batches, room = 0, 0.0, 0, 0
    earliest_s = math.inf
    for arrived_s, left, done in waiting:
        at_s = arrived_s if arrived_s == arrived_s else unnoted_s  # noqa: PLR0124  (nan)
        while left > 0:
            if len(buckets) == MAX_DEADLINE_BUCKETS - 1:
                # All that comes is merged, so that no prompt is long enough to take long here.
                new = left
                begun = -(-max(new - room, 0) // limit)
                batches += begun
                room += begun * limit
            else:
                if not room:
                    if batches:
                        buckets.append(_bucket(earliest_s + ttft_s, tokens, pairs, batches))
                        earliest_s = math.inf
                    batches += 1
                    room = limit
                new = left if left < room else room
            pairs += attended_pairs(new, done)
            tokens += new
            room -= new
            left -= new  # noqa: PLW2901
            done += new  # noqa: PLW2901
            earliest_s = min(earliest_s, at_s)
    if not batches:
        return ()
    hidden = total_tokens - tokens
    if hidden > 0:
        pairs *= 1.0 + hidden / tokens
        tokens += hidden
        batches += math.ceil(max(hidden - room, 0) / limit)
    buckets.append(_bucket(earliest_s + ttft_s, tokens, pairs, batches))
    return tuple(buckets)


def _bucket(deadline_s: float, tokens: int, pairs: float, batches: int) -> DeadlineBucket:
    return DeadlineBucket(
        deadline_s=deadline_s,
        cumulative_tokens=tokens,
        cumulative_attended_pairs=pairs,
        cumulative_batches=batches,
    )
