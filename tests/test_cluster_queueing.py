"""The queue that a controller sees: one rule for the simulator and for engines."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.queueing import Waiting, deadline_buckets, queue_behind
from voltana.values import EMPTY_QUEUE, MAX_DEADLINE_BUCKETS, Queue, attended_pairs

waiting_requests = st.lists(
    st.builds(
        Waiting,
        arrived_s=st.floats(0.0, 100.0),
        new_tokens=st.integers(1, 5000),
        done_tokens=st.integers(0, 3000),
    ),
    max_size=120,
)


def engine_batches(waiting, limit):
    """What an engine with chunked prefill computes, batch by batch: the parts of each."""
    queue = [[index, w.new_tokens] for index, w in enumerate(waiting)]
    batches = []
    while queue:
        room, parts = limit, {}
        while queue and room:
            part = min(room, queue[0][1])
            parts[queue[0][0]] = part
            room -= part
            queue[0][1] -= part
            if not queue[0][1]:
                queue.pop(0)
        batches.append(parts)
    return batches


@given(waiting=waiting_requests, limit=st.integers(50, 3000))
def test_buckets_are_the_batches_of_the_engine_each_as_urgent_as_its_most_urgent_prompt(
    waiting, limit
):
    batches = engine_batches(waiting, limit)
    buckets = deadline_buckets(waiting, max_batch_tokens=limit, ttft_s=1.0)
    assert len(buckets) == min(len(batches), MAX_DEADLINE_BUCKETS)
    for index, bucket in enumerate(buckets):
        last = index == len(buckets) - 1
        inside = batches[index:] if last else [batches[index]]
        upto = batches if last else batches[: index + 1]
        due_s = min(waiting[i].arrived_s for parts in inside for i in parts) + 1.0
        assert bucket.deadline_s == due_s
        assert bucket.cumulative_batches == len(upto)
        assert bucket.cumulative_tokens == sum(sum(parts.values()) for parts in upto)
    if buckets:
        assert buckets[-1].cumulative_attended_pairs == pytest.approx(
            sum(attended_pairs(w.new_tokens, w.done_tokens) for w in waiting)
        )


@given(waiting=waiting_requests, limit=st.integers(50, 3000))
def test_a_queue_that_keeps_its_buckets_keeps_every_deadline(waiting, limit):
    buckets = deadline_buckets(waiting, max_batch_tokens=limit, ttft_s=1.0)
    for earlier, later in itertools.pairwise(buckets):
        assert earlier.cumulative_tokens < later.cumulative_tokens
        assert earlier.cumulative_batches < later.cumulative_batches
        assert earlier.cumulative_attended_pairs < later.cumulative_attended_pairs
    done = 0
    for w in waiting:  # done in a bucket whose deadline is not later than its own
        done += w.new_tokens
        bucket = next(b for b in buckets if b.cumulative_tokens >= done)
        assert bucket.deadline_s <= w.arrived_s + 1.0


@given(waiting=waiting_requests, limit=st.integers(1, 8192), hidden=st.integers(0, 10**6))
def test_requests_that_are_not_listed_count_at_the_end(waiting, limit, hidden):
    listed = sum(w.new_tokens for w in waiting)
    alone = deadline_buckets(waiting, max_batch_tokens=limit, ttft_s=1.0)
    buckets = deadline_buckets(
        waiting, max_batch_tokens=limit, ttft_s=1.0, total_tokens=listed + hidden
    )
    assert buckets[:-1] == alone[:-1]
    assert bool(buckets) == bool(waiting)
    if waiting:
        last = buckets[-1]
        assert last.deadline_s == alone[-1].deadline_s
        assert last.cumulative_tokens == listed + hidden
        assert last.cumulative_batches == math.ceil((listed + hidden) / limit)
        assert last.cumulative_attended_pairs == pytest.approx(
            alone[-1].cumulative_attended_pairs * (1 + hidden / listed)
        )


def test_a_prompt_that_does_not_fit_is_cut_and_out_of_order_deadlines_are_heeded():
    waiting = [Waiting(10.0, 60, 0), Waiting(9.0, 30, 10), Waiting(11.0, 40, 0)]
    queue = queue_behind(
        waiting, requests=3, tokens=130, oldest_s=9.0, now_s=12.0, ttft_s=2.0, max_batch_tokens=100
    )
    assert (queue.requests, queue.tokens, queue.oldest_wait_s) == (3, 130, 3.0)
    figures = [(b.deadline_s, b.cumulative_tokens, b.cumulative_batches) for b in queue.deadlines]
    assert figures == [(11.0, 100, 1), (13.0, 130, 2)]
    pairs = attended_pairs(60) + attended_pairs(30, 10) + attended_pairs(10)
    assert queue.deadlines[0].cumulative_attended_pairs == pairs
    whole = attended_pairs(60) + attended_pairs(30, 10) + attended_pairs(40)
    assert queue.deadlines[1].cumulative_attended_pairs == whole


def test_a_prompt_longer_than_a_batch_takes_several_due_at_once():
    buckets = deadline_buckets([Waiting(10.0, 250, 0)], max_batch_tokens=100, ttft_s=1.0)
    assert [b.cumulative_batches for b in buckets] == [1, 2, 3]
    assert {b.deadline_s for b in buckets} == {11.0}


def test_a_prompt_of_billions_of_tokens_takes_no_longer_than_one_of_thousands():
    """A ring may say so, and its agent serves others: batch by batch it took seconds."""
    long = Waiting(1.0, 2**32 - 1, 0)
    began_s = time.process_time()
    buckets = deadline_buckets([long] * 40, max_batch_tokens=1, ttft_s=1.0)
    assert time.process_time() - began_s < 5.0  # batch by batch it is a day
    assert len(buckets) == MAX_DEADLINE_BUCKETS
    assert buckets[-1].cumulative_batches == buckets[-1].cumulative_tokens == 40 * (2**32 - 1)


def test_an_arrival_that_was_not_noted_counts_as_the_oldest_that_was():
    waiting = [Waiting(math.nan, 50, 0)]
    queue = queue_behind(
        waiting, requests=1, tokens=50, oldest_s=3.0, now_s=4.0, ttft_s=1.0, max_batch_tokens=100
    )
    assert queue.deadlines[0].deadline_s == 4.0
    unknown = queue_behind(
        waiting,
        requests=1,
        tokens=50,
        oldest_s=math.nan,
        now_s=4.0,
        ttft_s=1.0,
        max_batch_tokens=100,
    )
    assert unknown.deadlines[0].deadline_s == 5.0


@pytest.mark.parametrize("oldest_s", [math.nan, 5.0, 6.0])
def test_where_nothing_waits_the_queue_is_empty(oldest_s):
    assert queue_behind(requests=0, tokens=0, oldest_s=oldest_s, now_s=5.0) is EMPTY_QUEUE


def test_the_wait_of_the_batch_counts_where_nothing_waits_behind_it():
    queue = queue_behind(requests=0, tokens=0, oldest_s=4.0, now_s=5.0)
    assert queue == Queue(oldest_wait_s=1.0)
