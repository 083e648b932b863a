"""Batches that requests join or leave are told as the long way tells them, or take that."""

from __future__ import annotations

import math

import pytest
from fake_vllm import Request, RequestStatus
from hooked import Bench

from voltana_ring.layout import Change, Kind


@pytest.fixture(params=[False, True], ids=["plain", "async"])
def bench(tmp_path, request):
    made = Bench(
        tmp_path, asynchronous=request.param, budget=32_768, running=1024, blocks=1_000_000
    )
    yield made
    made.close()


def add(bench, *names, **options):
    for name in names:
        bench.scheduler.add_request(Request(name, 20, 40, bench.wall_s, **options))


def told(bench, *, of):
    return [change for change in bench.changes if change.name == hash(of) % 2**64]


@pytest.mark.parametrize("count", [8, 9, 120, 1024])
def test_first_tokens_of_any_number_are_told_of_one_batch(bench, count):
    add(bench, *(f"r{number}" for number in range(count)))
    bench.run(12)
    assert bench.meter.errors == bench.reader.torn == 0
    whats = [change.what for change in bench.changes]
    assert [whats.count(what) for what in (Change.WAITS, Change.FIRST)] == [count, count]
    for record in bench.of(Kind.FINISHED):
        truth = bench.scheduler.truth[id(bench.core.outputs[record.iteration - 1])]
        assert record.load.decode_kv_tokens == sum(truth.decode.values())


def test_a_request_that_ends_before_any_batch_has_decoded_had_its_last_token_with_its_first(bench):
    add(bench, "x")
    for _ in range(2 if bench.scheduler._async else 1):
        bench.core.step()
    bench.scheduler.abort("x")
    add(bench, "y")
    bench.run(6)
    assert bench.reader.torn == 0
    finished = [record.iteration for record in bench.of(Kind.FINISHED)]
    assert finished == list(range(1, len(finished) + 1))
    times_s = [change.at_s for change in told(bench, of="x")]
    assert not any(map(math.isnan, times_s))
    assert told(bench, of="y")[0].what is Change.WAITS


def test_a_request_from_elsewhere_that_ends_before_its_first_token_tears_no_record(tmp_path):
    bench = Bench(tmp_path, asynchronous=True)
    request = Request("x", 20, 40, bench.wall_s, params={"remote_engine_id": "e"}, cached=19)
    bench.scheduler.add_request(request)
    bench.core.step()
    bench.scheduler.abort("x")
    add(bench, "y")
    bench.run(6)
    assert bench.reader.torn == 0
    assert [change.what for change in told(bench, of="x")] == [Change.JOINED, Change.ABORTED]
    bench.close()


def test_a_request_is_never_told_to_end_before_its_first_token(bench):
    add(bench, "a")
    bench.run(4)
    bench.scheduler.abort("a")
    bench.run(4)
    bench.tick(1.0)
    bench.scheduler.add_request(Request("x", 20, 1, bench.wall_s))
    add(bench, "y")
    bench.run(8)
    first_s = {c.name: c.at_s for c in bench.changes if c.what is Change.FIRST}
    ends = [c for c in bench.changes if c.what in {Change.ENDED, Change.ABORTED}]
    assert ends
    assert all(change.at_s >= first_s[change.name] for change in ends)


def test_a_request_that_lost_its_cache_and_was_aborted_then_leaves_no_tokens_behind(bench):
    """As where all that runs is preempted between two batches, to empty the prefix cache."""
    add(bench, "x")
    bench.run(6)
    scheduler = bench.scheduler
    lost = scheduler.running.pop()
    lost.status, lost.num_computed_tokens, lost.num_output_placeholders = (
        RequestStatus.PREEMPTED, 0, 0,
    )  # fmt: skip
    scheduler.waiting.appendleft(lost)
    scheduler.abort("x")
    add(bench, "y")
    bench.run(6)
    last = bench.of(Kind.LAUNCHED)[-1]
    truth = scheduler.truth[id(bench.core.outputs[last.iteration - 1])]
    assert last.load.decode_kv_tokens == sum(truth.decode.values()) > 0


def test_first_tokens_of_requests_from_elsewhere_are_told_there_alone(bench):
    """Here too where a part of the prompt had to be computed."""
    add(bench, "a")
    bench.run(4)
    add(bench, "x", params={"remote_engine_id": "e"})
    bench.run(8)
    assert [change.what for change in told(bench, of="x")] == [Change.JOINED]
