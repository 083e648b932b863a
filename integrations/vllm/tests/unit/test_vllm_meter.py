"""What the hooks measure of a scheduler, against what that scheduler knows itself."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from fake_vllm import Request, RequestStatus
from hooked import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.values import Load
from voltana_ring.layout import Change, Flag, Kind


def truth_of(bench, output):
    truth = bench.scheduler.truth[id(output)]
    load = Load.prefill(truth.prefill.values())
    return Load(
        prefill_tokens=load.prefill_tokens,
        prefill_attended_pairs=load.prefill_attended_pairs,
        decode_requests=len(truth.decode),
        decode_kv_tokens=sum(truth.decode.values()),
    )


def check(bench):
    """Every step is measured once, with what it computes."""
    steps = [o for o in bench.core.outputs if o.total_num_scheduled_tokens]
    launched, finished = bench.of(Kind.LAUNCHED), bench.of(Kind.FINISHED)
    assert [r.iteration for r in launched] == list(range(1, len(steps) + 1))
    assert [r.iteration for r in finished] == [r.iteration for r in launched]
    for record, step in zip(launched, steps, strict=True):
        assert record.load == truth_of(bench, step), record.iteration
    assert [r.load for r in finished] == [r.load for r in launched]
    assert all(0 < r.latency_s < 0.02 for r in finished)
    assert bench.meter.errors == 0
    assert bench.meter._rows.known == {}
    assert not bench.meter._flying


prompts = st.tuples(st.integers(1, 200), st.integers(1, 30), st.integers(0, 60), st.integers(0, 12))


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(prompts, min_size=1, max_size=14),
    budget=st.integers(8, 96),
    running=st.integers(1, 6),
    blocks=st.sampled_from([300, 500, 10_000]),
    asynchronous=st.booleans(),
    drafts=st.sampled_from([0, 0, 2]),
    skipped=st.sampled_from(["kv_holding_waiting", "skipped_waiting"]),
    aborts=st.sets(st.integers(0, 13), max_size=3),
    waits=st.booleans(),
)
def test_every_step_is_measured_with_what_it_computes(  # noqa: PLR0917
    tmp_path_factory,
    arrivals,
    budget,
    running,
    blocks,
    asynchronous,
    drafts,
    skipped,
    aborts,
    waits,
):
    """Mixed batches, chunks, cache hits, preemption, drafts, aborts: all at once."""
    bench = Bench(
        tmp_path_factory.mktemp("ring"), budget=budget, running=running, blocks=blocks,
        asynchronous=asynchronous, drafts=0 if asynchronous else drafts, skipped=skipped,
        waits=waits,
    )  # fmt: skip
    try:
        for index, (prompt, tokens, cached, wait) in enumerate(arrivals):
            request = Request(f"r{index}", prompt, tokens, bench.wall_s, cached=cached)
            bench.scheduler.add_request(request)
            for _ in range(wait):
                bench.core.step()
                bench.records += bench.reader.drain()
            if index in aborts:
                bench.scheduler.abort(f"r{index}")
        bench.run()
        check(bench)
        told = Counter(change[2] for change in bench.changes)
        assert told[Change.WAITS] == told[Change.FIRST] + told[Change.GONE]
        assert told[Change.JOINED] == told[Change.ENDED] + told[Change.ABORTED]
        if not aborts:
            assert told[Change.FIRST] == len(arrivals)
    finally:
        bench.close()


@pytest.fixture
def bench(tmp_path, request):
    made = Bench(tmp_path, **getattr(request, "param", {}))
    yield made
    made.close()


def add(bench, rid="r0", prompt=20, tokens=4, **more):
    request = Request(rid, prompt, tokens, bench.wall_s, **more)
    bench.scheduler.add_request(request)
    return request


@pytest.mark.parametrize("bench", [{}, {"asynchronous": True}], indirect=True)
def test_a_request_is_followed_from_its_arrival_to_its_last_token(bench):
    add(bench, tokens=4)
    bench.tick(0.5)  # it waited in the engine's input queue
    records = bench.run()
    waits, first, joined, ended = sorted(bench.changes, key=lambda change: change[2])
    assert [change[2] for change in (waits, first, joined, ended)] == [
        Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED,
    ]  # fmt: skip
    if bench.scheduler._async:  # the next step is launched before the first token is seen
        assert waits[1] < joined[1] < first[1]
    else:
        assert joined[1] == first[1]
    assert waits[1] == pytest.approx(100.0, abs=1e-3)
    assert first[1] > 100.5
    assert ended[3] == 4
    assert ended[1] == bench.of(Kind.FINISHED)[-1].ready_s
    assert len({c[0] for c in bench.changes}) == 1
    assert records[-1].kind is Kind.IDLE


def test_latency_runs_from_the_launch_or_from_the_result_before(tmp_path):
    """Asynchronously the next step is launched while one runs: it has not begun then."""
    for asynchronous in (False, True):
        folder = tmp_path / str(asynchronous)
        folder.mkdir()
        bench = Bench(folder, asynchronous=asynchronous)
        add(bench, tokens=6)
        bench.run()
        times = [r.latency_s for r in bench.of(Kind.FINISHED)]
        # A launch takes 1 ms of the host, a step 4 ms.
        assert times[1:-1] == pytest.approx([0.005] * (len(times) - 2), abs=2e-3)
        ready = [r.ready_s for r in bench.of(Kind.FINISHED)]
        assert ready == sorted(ready)
        bench.close()


@pytest.mark.parametrize("bench", [{"budget": 32}], indirect=True)
def test_what_waits_is_told_with_the_rest_of_a_chunk_in_front(bench):
    add(bench, "a", prompt=70)
    add(bench, "b", prompt=50)
    bench.core.step()
    bench.records += bench.reader.drain()
    (launched,) = bench.of(Kind.LAUNCHED)
    assert launched.load.prefill_tokens == 32
    assert (launched.waiting_requests, launched.waiting_tokens) == (2, 38 + 50)
    assert [tuple(w)[1:] for w in launched.waiting] == [(38, 32), (50, 0)]
    assert launched.oldest_s == pytest.approx(100.0, abs=1e-3)
    bench.run()
    check(bench)


def test_a_kv_cache_that_is_fetched_waits_and_then_decodes(bench):
    request = add(
        bench, prompt=40, tokens=5,
        params={"do_remote_prefill": True, "remote_engine_id": "p", "do_remote_decode": False},
    )  # fmt: skip
    for _ in range(5):
        bench.core.step()
        bench.tick(0.2)
    bench.records += bench.reader.drain()
    assert request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    assert {r.kind for r in bench.records} == {Kind.IDLE}
    idle = bench.records[-1]
    assert (idle.waiting_requests, idle.waiting_tokens) == (1, 40)
    bench.scheduler.fetched.add("r0")
    bench.run()
    assert next(r.load for r in bench.of(Kind.LAUNCHED)) == Load.decode(1, 40)
    assert all(r.load.prefill_tokens == 0 for r in bench.of(Kind.LAUNCHED))
    assert [c[2] for c in bench.changes] == [Change.JOINED, Change.ENDED]


def test_a_request_whose_kv_cache_is_kept_for_another_is_told_once(bench):
    """vLLM keeps it in its table until it was fetched, though it has ended."""
    for index in range(3):
        add(bench, f"r{index}", prompt=20, tokens=1, params={"do_remote_decode": True})
    bench.run()
    assert len(bench.scheduler.requests) == 3
    add(bench, "r3", tokens=3)
    bench.run()
    bench.scheduler.release("r2")
    add(bench, "r4", tokens=3)
    bench.run()
    assert Counter(change[2] for change in bench.changes) == {
        Change.WAITS: 5, Change.FIRST: 5, Change.JOINED: 2, Change.ENDED: 2,
    }  # fmt: skip
    check(bench)


def test_the_reader_is_woken_by_a_launch_and_by_the_last_result(bench):
    add(bench, tokens=3)
    bench.run()
    kinds = [r.kind for r in bench.records if r.kind is not Kind.CHANGES]
    launches = kinds.count(Kind.LAUNCHED)
    assert launches == kinds.count(Kind.FINISHED) == 3
    repeats = 1  # the second token's batch, which the third's repeats: no bell rings for that
    assert bench.rung() == launches - repeats + 1 + kinds.count(Kind.IDLE)


@pytest.mark.parametrize("bench", [{"blocks": 120, "running": 4}], indirect=True)
def test_a_request_that_was_preempted_is_a_prompt_again_and_promised_once(bench):
    for index in range(4):
        add(bench, f"r{index}", prompt=20, tokens=30)
    bench.run()
    told = Counter(change[2] for change in bench.changes)
    assert told == {
        Change.WAITS: 4, Change.FIRST: 4, Change.JOINED: 4, Change.ENDED: 4,
    }  # fmt: skip
    computed = sum(r.load.prefill_tokens for r in bench.of(Kind.LAUNCHED))
    assert computed > 4 * 20
    check(bench)


@pytest.mark.parametrize("bench", [{"drafts": 3}], indirect=True)
def test_drafts_make_no_prompt_of_a_decoding_request(bench):
    add(bench, tokens=40)
    bench.run()
    decode = [r for r in bench.of(Kind.LAUNCHED) if r.load.decode_requests]
    assert all(r.load.prefill_tokens == 0 for r in decode)
    assert all(r.flags & Flag.SPECULATIVE for r in decode)
    assert len(decode) < 39
    check(bench)


def test_requests_of_our_router_are_named_and_others_are_not(bench):
    name = "cmpl-voltana-00000000000000ffaaaaaaaaaaaaaaaa"
    add(bench, f"{name}-0-1a2b3c4d")
    add(bench, f"{name}-3-1a2b3c4d")
    add(bench, "chatcmpl-voltana-0000000000000001bbbbbbbbbbbbbbbb-1a2b3c4d")
    add(bench, "cmpl-0123456789abcdef-0")
    bench.run()
    rooms = [room for record in bench.records for room in record.rooms]
    assert rooms == [0xFF, 0xFF + 3, 1]


@pytest.mark.parametrize("bench", [{"running": 1}], indirect=True)
def test_a_long_queue_is_told_by_its_first_requests_and_its_sum(bench):
    for index in range(100):
        add(bench, f"r{index}", prompt=10 + index % 3, tokens=2)
    bench.core.step()
    bench.records += bench.reader.drain()
    (launched,) = bench.of(Kind.LAUNCHED)
    assert launched.waiting_requests == 99
    assert launched.flags & Flag.CUT
    assert launched.waiting_tokens == pytest.approx(99 * 11, rel=0.03)
    assert len(launched.waiting) == 40


def test_an_arrival_of_the_future_is_one_of_now(bench):
    """Another host's clock may be ahead."""
    request = Request("r0", 5, 2, bench.wall_s + 60)
    bench.scheduler.add_request(request)
    bench.run()
    assert bench.changes[0][1] == pytest.approx(100.0, abs=0.01)
    assert not any(math.isnan(c[1]) for c in bench.changes)


@pytest.mark.parametrize("bench", [{"asynchronous": True}], indirect=True)
def test_a_step_whose_result_never_comes_is_given_up(bench):
    add(bench, prompt=5, tokens=300)
    for _ in range(3):
        bench.core.step()
    lost = [bench.scheduler.schedule() for _ in range(200)]
    assert all(output.total_num_scheduled_tokens for output in lost)
    assert bench.meter.iterations == 203
    assert len(bench.meter._flying) == 64
