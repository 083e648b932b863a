"""Prefix caches of colocated instances: what is found, and that memory is neither lost nor lent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plants import LinearPlant, cluster
from tests.prefix_oracle import conversations, found_by_lru
from tests.test_colocated import engines
from voltana.plant.colocated.request import EngineRequest
from voltana.plant.colocated.scheduler import EngineScheduler, SchedulerOptions
from voltana.plant.simulation import Simulation
from voltana.plant.workload.prefixes import Prefixes
from voltana.plant.workload.trace import Trace
from voltana.policies import get_policy
from voltana.policies.routing import in_turn, together_by_prefix, within_boundaries
from voltana.values import Prefix


def finish(scheduler, requests, *, ahead=False):
    """Serve what was added; `ahead` forms each batch before the one before is committed."""
    still = 0
    while not all(request.finished for request in requests):
        batch = scheduler.schedule()
        assert scheduler.available_tokens >= 0
        still += batch is not None
        if still > ahead or (batch is None and still):
            scheduler.commit()
            still -= 1
    while still:
        scheduler.commit()
        still -= 1


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_one_after_the_other_they_find_what_an_independent_lru_does(seed, share):
    asked = conversations(seed, count=40)
    longest = max(tokens for _, tokens in asked)
    capacity = longest + 1 + int(share * sum(tokens for _, tokens in asked))
    scheduler = EngineScheduler(SchedulerOptions(capacity_tokens=capacity, prefix_cache=True))
    found = []
    for number, (prefix, tokens) in enumerate(asked):
        request = EngineRequest(number, tokens, 1, prefix=prefix)
        scheduler.add(request)
        finish(scheduler, [request])
        found.append(request.found)
    assert found == found_by_lru(asked, capacity)


@settings(deadline=None, max_examples=60)
@given(engines(), st.integers(0, 10**6), st.booleans(), st.lists(st.integers(1, 30), min_size=1))
def test_every_request_gets_its_tokens_and_gives_back_its_memory(options, seed, ahead, outputs):
    options = dataclasses.replace(options, prefix_cache=True)
    asked = conversations(seed, count=12, block_tokens=3)
    room = options.capacity_tokens - 2 * options.page_tokens
    requests = [
        EngineRequest(number, tokens, output, prefix=prefix)
        for number, (prefix, tokens) in enumerate(asked)
        if tokens + (output := outputs[number % len(outputs)]) < room
    ]
    scheduler = EngineScheduler(options)
    for request in requests:
        scheduler.add(request)
    finish(scheduler, requests, ahead=ahead)
    assert all(request.produced == request.output_tokens for request in requests)
    assert all(request.found < request.prompt_tokens for request in requests)
    whole = options.capacity_tokens // options.page_tokens * options.page_tokens
    assert scheduler.available_tokens == whole  # all that is left there may be given up


def sharing(**changes) -> Trace:
    lists = [[1, 2, 3], [1, 2, 4], [1, 2, 3], [9]]
    return Trace(
        arrival_s=np.arange(4) * 10.0,
        prompt_tokens=np.array([300, 300, 300, 100]),
        output_tokens=np.full(4, 3),
        **({"prefixes": Prefixes.of_lists(lists, 100)} | changes),
    )


def run(trace: Trace, colocated: int = 1, router=in_turn, **engine) -> Simulation:
    spec = dataclasses.replace(
        cluster(latency_noise=0.0, **engine), prefill=0, decode=0, colocated=colocated
    )
    policy = dataclasses.replace(get_policy("static-max"), decode_router=router)
    simulation = Simulation(spec, policy, trace, plant=LinearPlant())
    simulation.run()
    return simulation


def test_only_what_misses_is_computed():
    simulation = run(sharing())
    assert [job.cached_tokens for job in simulation.jobs] == [0, 200, 299, 0]
    whole, second, third, _ = simulation.record().ttft_s
    assert whole - second == pytest.approx(200e-4, rel=0.01)  # 0.1 ms a token at this clock
    assert whole - third == pytest.approx(299e-4, rel=0.01)
    off = run(sharing(), prefix_cache=False).record()
    assert off.cached_tokens is None
    assert off.ttft_s[1] == pytest.approx(whole, rel=0.01)


def test_what_the_trace_says_was_cached_is_taken_at_its_word():
    jobs = run(sharing(prefixes=None, cached_tokens=np.array([0, 50, 500, 0]))).jobs
    assert [job.cached_tokens for job in jobs] == [0, 50, 299, 0]


def test_affinity_sends_prompts_where_their_beginning_is_kept():
    plain, by_prefix = (
        [job.cached_tokens for job in run(sharing(), colocated=2, router=router).jobs]
        for router in (within_boundaries, together_by_prefix)
    )
    assert plain == [0, 0, 299, 0]
    assert by_prefix == [0, 200, 299, 0]


def test_answers_take_room_that_prompts_are_given_up_for():
    """Of 40 tokens, a prompt of 10 with an answer of 21 leaves none for another prompt of 11."""

    def found(output: int) -> int:
        scheduler = EngineScheduler(SchedulerOptions(capacity_tokens=40, prefix_cache=True))
        asked = [(1, 10, 1), (2, 10, output), (3, 11, 1), (1, 10, 1)]
        for number, (block, tokens, produced) in enumerate(asked):
            prefix = Prefix((block,), 16)
            request = EngineRequest(number, tokens, produced, prefix=prefix)
            scheduler.add(request)
            finish(scheduler, [request])
        assert scheduler.available_tokens == 40
        return request.found

    assert found(1) == 9
    assert found(21) == 0


def test_of_a_prompt_that_is_cut_what_was_scheduled_is_found_before_it_is_committed():
    options = SchedulerOptions(capacity_tokens=200, chunk_tokens=30, prefix_cache=True)
    scheduler = EngineScheduler(options)
    first, second = (
        EngineRequest(number, tokens, 1, prefix=Prefix((1, 2, 3), 16))
        for number, tokens in enumerate((40, 30))
    )
    scheduler.add(first)
    assert [chunk.new_tokens for chunk in scheduler.schedule().chunks] == [30]
    scheduler.add(second)
    batch = scheduler.schedule()  # the engine works ahead
    assert [chunk.new_tokens for chunk in batch.chunks] == [10, 1]
    scheduler.commit()
    scheduler.commit()
    assert (first.found, second.found) == (0, 29)
