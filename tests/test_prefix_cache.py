"""Prefix caches: what is found, what is evicted, and what the plant makes of it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plants import LinearPlant, cluster
from tests.prefix_oracle import conversations, found_by_lru, found_by_ours
from voltana.errors import ConfigError, TraceError
from voltana.evaluation.bound import bound_comparison
from voltana.evaluation.compare import compare
from voltana.evaluation.comparison_report import caption
from voltana.evaluation.scenario import load_scenario
from voltana.plant.simulation import Simulation
from voltana.plant.workload.prefixes import Prefixes
from voltana.plant.workload.replay import read_trace
from voltana.plant.workload.trace import Trace
from voltana.policies import get_policy
from voltana.prefix_cache import PrefixCache
from voltana.values import Prefix

MOONCAKE = (
    Path(__file__).parents[2] / "shared/data/mooncake-synthetic/synthetic_trace_hash_ids.jsonl.gz"
)


@given(st.integers(0, 10**6), st.sampled_from([1, 3, 16, 40]))
def test_unbounded_memory_finds_the_longest_beginning_that_came_before(seed, page):
    """Worked out from the prompts alone: the most whole pages shared with any earlier one."""
    asked = conversations(seed, count=40)
    for index, found in enumerate(found_by_ours(asked, float("inf"), page)):
        prefix, tokens = asked[index]
        longest = 0
        for earlier, length in asked[:index]:
            same = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(prefix.ids, earlier.ids, strict=False))
                    if a != b
                ),
                min(len(prefix.ids), len(earlier.ids)),
            )
            kept = length // page * page
            longest = max(longest, min(same * prefix.block_tokens, kept, tokens - 1))
        assert found == longest // page * page


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 20))
def test_single_blocks_are_an_ordinary_lru(ids, room):
    """Held against an ordered dictionary: blocks of 8 tokens, memory for `room` prompts."""
    asked = [(Prefix((number,), 8), 9) for number in ids]  # the ninth token nobody can share
    ours = found_by_ours(asked, 8 * room + 1)
    lru: OrderedDict[int, None] = OrderedDict()
    for number, found in zip(ids, ours, strict=True):
        assert found == (8 if number in lru else 0)
        if number not in lru:
            while len(lru) >= room:
                lru.popitem(last=False)
        lru[number] = None
        lru.move_to_end(number)


@given(st.integers(0, 10**6), st.integers(50, 2000))
def test_memory_is_never_exceeded_and_what_is_held_stays(seed, capacity):
    cache, rng = PrefixCache(), np.random.default_rng(seed)
    held = []
    for prefix, tokens in conversations(seed, count=60):
        assert cache.peek(prefix, tokens) == cache.match(prefix, tokens).end
        if tokens <= capacity - sum(run_tokens for _, _, _, run_tokens in held):
            run = cache.insert(prefix, tokens)
            cache.lock(run)
            held.append((run, prefix, tokens, tokens))
        cache.evict(cache.tokens - capacity)
        assert cache.tokens <= capacity
        for _, kept, length, _ in held:
            assert cache.peek(kept, length) == length
        while held and rng.random() < 0.5:
            cache.unlock(held.pop(0)[0])
    for run, *_ in held:
        cache.unlock(run)
    cache.evict(float("inf"))
    assert cache.tokens == 0


@given(st.integers(0, 10**6), st.floats(0.02, 1.0))
def test_under_eviction_as_much_is_found_as_by_an_independent_lru(seed, share):
    asked = conversations(seed, count=80)
    longest = max(tokens for _, tokens in asked)
    capacity = longest + int(share * sum(tokens for _, tokens in asked))
    assert found_by_ours(asked, capacity) == found_by_lru(asked, capacity)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="needs ../shared/data/mooncake-synthetic")
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_recorded_trace_finds_the_same_in_bounded_memory(share):
    """Blocks and prompts 32 times as short, so that the other memory can keep single tokens."""
    trace = read_trace(MOONCAKE)
    assert trace.prefixes is not None
    asked = [
        (Prefix(trace.prefixes.of(i).ids, 16), max(-(-int(trace.prompt_tokens[i]) // 32), 2))
        for i in range(600)
    ]
    capacity = max(tokens for _, tokens in asked) + int(share * sum(n for _, n in asked))
    ours = found_by_ours(asked, capacity)
    assert ours == found_by_lru(asked, capacity)
    assert 0 < sum(ours) < sum(found_by_ours(asked, float("inf")))  # something was given up


def test_a_page_below_one_token_is_refused():
    with pytest.raises(ConfigError, match="page_tokens = 0 is not allowed: must be at least 1"):
        PrefixCache(0)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="needs ../shared/data/mooncake-synthetic")
def test_the_hit_rate_of_the_recorded_trace_is_that_of_an_independent_lru():
    """In unbounded memory a set of blocks says what is found: every block of a chain, or none."""
    trace = read_trace(MOONCAKE)
    assert trace.prefixes is not None
    asked = [(trace.prefixes.of(i), int(trace.prompt_tokens[i])) for i in range(len(trace))]
    ours = found_by_ours(asked, float("inf"))
    seen: dict[tuple[int, int], int] = {}
    for (prefix, tokens), found in zip(asked, ours, strict=True):
        expected = 0
        for place, number in enumerate(prefix.ids):
            filled = min(512, tokens - 512 * place)
            there = seen.get((place, number), 0)
            expected += min(there, filled)
            if there < filled:
                break
        assert found == min(expected, tokens - 1)
        for place, number in enumerate(prefix.ids):
            filled = min(512, tokens - 512 * place)
            seen[place, number] = max(seen.get((place, number), 0), filled)
    assert sum(ours) / trace.prompt_tokens.sum() == pytest.approx(0.6512, abs=1e-4)


def sharing(
    *, cached: list[int] | None = None, prefixes: bool = True, gap_s: float = 10.0
) -> Trace:
    lists = [[1, 2, 3], [1, 2, 4], [1, 2, 3], [9]]
    return Trace(
        arrival_s=np.arange(4) * gap_s,
        prompt_tokens=np.array([300, 300, 300, 100]),
        output_tokens=np.full(4, 2),
        prefixes=Prefixes.of_lists(lists, 100) if prefixes else None,
        cached_tokens=None if cached is None else np.array(cached),
    )


def run(trace: Trace, policy: str = "static-max", **engine) -> Simulation:
    simulation = Simulation(
        cluster(latency_noise=0.0, **engine), get_policy(policy), trace, plant=LinearPlant()
    )
    simulation.run()
    return simulation


def test_only_what_misses_is_computed():
    """Second prompt: two blocks of three are there; third: all but the token that must run."""
    simulation = run(sharing())
    assert [job.cached_tokens for job in simulation.jobs] == [0, 200, 299, 0]
    ttft = simulation.record().ttft_s
    whole, second, third, _ = ttft
    assert whole - second == pytest.approx(200e-4, rel=0.01)  # 0.1 ms a token at this clock
    assert whole - third == pytest.approx(299e-4, rel=0.01)
    off = run(sharing(), prefix_cache=False)
    assert off.record().cached_tokens is None
    assert off.record().ttft_s == pytest.approx(np.array([whole, whole, whole, ttft[3]]), rel=0.01)


def test_prompts_of_one_batch_do_not_find_each_other():
    """While the first is computed for 30 ms, the host prepares the others: one batch."""
    trace = Trace(
        arrival_s=np.zeros(3),
        prompt_tokens=np.full(3, 300),
        output_tokens=np.full(3, 2),
        prefixes=Prefixes.of_lists([[9], [1, 2, 3], [1, 2, 3]], 100),
    )
    assert [job.cached_tokens for job in run(trace).jobs] == [0, 0, 0]


def test_what_the_trace_says_was_cached_is_taken_at_its_word():
    jobs = run(sharing(prefixes=False, cached=[0, 50, 500, 0])).jobs
    assert [job.cached_tokens for job in jobs] == [0, 50, 299, 0]


def test_memory_that_holds_one_prompt_forgets_the_one_before():
    simulation = run(sharing(), kv_capacity_tokens=8192, max_prefill_tokens=8192)
    assert [job.cached_tokens for job in simulation.jobs] == [0, 200, 299, 0]
    lists = [[i * 100 + j for j in range(80)] for i in (1, 2, 1)]
    long = Trace(
        arrival_s=np.arange(3) * 10.0,
        prompt_tokens=np.full(3, 8000),
        output_tokens=np.full(3, 2),
        prefixes=Prefixes.of_lists(lists, 100),
    )
    assert [job.cached_tokens for job in run(long, kv_capacity_tokens=8192).jobs] == [0, 0, 0]
    assert [j.cached_tokens for j in run(long, kv_capacity_tokens=20_000).jobs] == [0, 0, 7999]


@pytest.mark.parametrize("policy", ["voltana", "voltana-affinity", "voltana-v0.1"])
def test_chunked_prompts_are_kept_chunk_by_chunk_and_all_end(policy):
    rng = np.random.default_rng(3)
    lists = [
        [int(t), *range(1000 * i, 1000 * i + 60)] for i, t in enumerate(rng.integers(0, 4, 40))
    ]
    trace = Trace(
        arrival_s=np.sort(rng.uniform(0, 8, 40)),
        prompt_tokens=rng.integers(2000, 6000, 40),
        output_tokens=np.full(40, 3),
        prefixes=Prefixes.of_lists(lists, 500),
    )
    scenario = load_scenario(
        None,
        {"policies": [policy], "cluster": {"prefill": 2}, "engine": {"max_prefill_tokens": 2048}},
    )
    simulation = Simulation(scenario.cluster, get_policy(policy), trace, plant=scenario.plant)
    simulation.run()
    assert simulation.finished == 40
    assert all(instance.pending_tokens == 0 for instance in simulation.instances[:2])


def test_windows_and_clips_keep_what_prompts_share(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            f'{{"timestamp": {1000 * i}, "input_length": {512 * len(ids)}, "output_length": 5, '
            f'"hash_ids": {ids}}}\n'
            for i, ids in enumerate([[7], [7, 8], [7, 8, 9], [5]])
        )
    )
    trace = read_trace(path, window_s=(1.0, 3.0), max_prompt_tokens=600)
    assert trace.prefixes is not None
    assert [trace.prefixes.of(i).ids for i in range(2)] == [(7, 8), (7, 8, 9)]
    assert trace.prefixes.block_tokens == 512
    assert trace.prompt_tokens.tolist() == [600, 600]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('{"a": 1}', "column 'hash_ids': {'a': 1} is not allowed: must be a list of the numbers"),
        ("[1, 2.5]", "[1, 2.5] is not allowed"),
        ("[1, null]", "[1, None] is not allowed"),
        ("17", "17 is not allowed"),
        ("true", "True is not allowed"),
    ],
)
def test_blocks_that_are_none_are_named(cell, said, tmp_path):
    path = tmp_path / "trace.jsonl"
    good = '{"timestamp": 0, "input_length": 512, "output_length": 5, "hash_ids": [1]}\n'
    path.write_text(good + good.replace("[1]", cell))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert f"{path}, line 2" in str(caught.value)
    assert said in str(caught.value)


def test_a_prompt_that_is_shorter_than_its_blocks_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    row = '{"timestamp": 0, "input_length": %d, "output_length": 5, "hash_ids": %s}\n'
    path.write_text(row % (513, [1, 2]) + row % (1, [1]) + row % (0, [1]) + row % (9, []))
    assert len(read_trace(path)) == 3
    path.write_text(row % (513, [1, 2]) + row % (512, [1, 2]))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value) == (
        f"{path}, line 2, column 'hash_ids': 2 blocks of 512 tokens are not allowed: must be at "
        "most 1, as the prompt has 512 tokens. Correct the line, or leave the column out."
    )


def test_cached_tokens_of_a_table_and_bad_ones(tmp_path):
    path = tmp_path / "trace.csv"
    head = "arrival_s,prompt_tokens,output_tokens,cached_tokens\n"
    path.write_text(head + "0,100,5,\n1,200,5,64\n")
    trace = read_trace(path)
    assert trace.shares == "cached_tokens"
    assert trace.cached_tokens.tolist() == [0, 64]
    path.write_text(head + "0,100,5,0\n1,200,5,some\n")
    with pytest.raises(TraceError, match="line 3, column 'cached_tokens': 'some' is not allowed"):
        read_trace(path)
    path.write_text(head + "0,100,5,0\n1,200,5,0\n")
    assert read_trace(path).shares == ""


def test_the_bound_refuses_a_trace_whose_prompts_share(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            f'{{"timestamp": {900 * i}, "input_length": 9, "output_length": 5, "hash_ids": [1]}}\n'
            for i in range(4)
        )
    )
    tables = {"policies": ["static-max"], "trace": {"file": str(path)}}
    with pytest.raises(ConfigError, match=r"engine\.prefix_cache = True is not allowed: must be"):
        bound_comparison(compare(load_scenario(None, tables)))
    off = {**tables, "engine": {"prefix_cache": False}}
    assert bound_comparison(compare(load_scenario(None, off))) is not None


def test_the_report_says_that_caches_are_on_and_what_was_found(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            f'{{"timestamp": {3000 * i}, "input_length": 1536, "output_length": 5, '
            f'"hash_ids": [1, 2, {i}]}}\n'
            for i in range(10, 14)
        )
    )
    tables = {"policies": ["static-max"], "trace": {"file": str(path)}}
    said = caption(compare(load_scenario(None, tables)))
    assert "Prefix caches on, a cache in each prefill instance (hash_ids of 512 tokens" in said
    both = {**tables, "cluster": {"prefill": 1, "decode": 1, "colocated": 1}}
    said = caption(compare(load_scenario(None, both)))
    assert "a cache in each prefill and each colocated instance (hash_ids" in said
    off = compare(load_scenario(None, {**tables, "engine": {"prefix_cache": False}}))
    assert "prefix caches are off" in caption(off)
    assert off.runs[0].result.to_dict()["prefix_hit_rate"] is None


def test_what_nobody_tells_of_takes_room_until_it_is_given_up_before_what_it_follows():
    cache = PrefixCache(4)
    run = cache.insert(Prefix((1, 2), 8), 16)
    cache.append(run, 11)  # whole pages
    cache.append(cache.match(Prefix((1, 2), 8), 16), 3)
    assert cache.tokens == 24
    assert cache.peek(Prefix((1, 2, 3), 8), 24) == 16
    other = cache.insert(Prefix((5,), 8), 8)
    cache.lock(other)
    assert cache.evict(1) == 8
    assert (cache.tokens, cache.peek(Prefix((1, 2), 8), 16)) == (24, 16)
    assert cache.evict(1) == 16
    assert cache.tokens == cache.held_tokens == 8
