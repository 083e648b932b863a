"""Batches that repeat the one before are told by a short way, and no others are taken for one."""

from __future__ import annotations

import sys

import pytest
from fake_vllm import Request
from hooked import Bench

from voltana_ring.layout import Kind

MOST_LINES = 60
"""Distinct lines that hooks run for such a batch: on a cold cache each costs, on any machine."""


@pytest.fixture(params=["plain", "async", "plain-waits", "async-waits"])
def bench(tmp_path, request):
    asynchronous, waits = request.param.startswith("async"), request.param.endswith("waits")
    made = Bench(tmp_path, asynchronous=asynchronous, waits=waits)
    yield made
    made.close()


def add(bench, *names, tokens=40):
    for name in names:
        bench.scheduler.add_request(Request(name, 20, tokens, bench.wall_s))


def step(bench, count=1):
    for _ in range(count):
        bench.core.step()
    bench.records += bench.reader.drain()


def lines_of(bench, call):
    """Distinct lines of the hooks that a call runs."""
    seen = set()

    def trace(frame, event, _):
        name = frame.f_code.co_filename
        if event == "line" and ("voltana_vllm" in name or "voltana_ring" in name):
            seen.add((name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return len(seen)


def test_a_batch_that_repeats_the_one_before_runs_few_lines(bench):
    add(bench, "a", "b", "c")
    step(bench, 8)
    assert lines_of(bench, bench.core.step) <= MOST_LINES


def test_where_the_engine_waits_little_is_done_before_a_batch_is_handed_over(tmp_path):
    bench = Bench(tmp_path)
    add(bench, "a", "b", "c")
    step(bench, 8)
    bench.records += bench.reader.drain()
    assert lines_of(bench, bench.scheduler.schedule) <= MOST_LINES // 4
    assert bench.reader.drain() == []
    bench.rung()
    bench.scheduler.get_grammar_bitmask(bench.meter.due)
    assert [record.kind for record in bench.reader.drain()] == [Kind.FINISHED, Kind.LAUNCHED]
    assert bench.rung() == 1
    bench.close()


def test_a_batch_that_others_wait_behind_tells_them_by_the_short_way(tmp_path):
    bench = Bench(tmp_path, running=2, asynchronous=False)
    add(bench, "a", "b", "c", "d")
    step(bench, 8)
    assert lines_of(bench, bench.core.step) <= MOST_LINES
    bench.scheduler.abort("d")
    assert lines_of(bench, bench.core.step) > MOST_LINES
    step(bench, 2)
    assert lines_of(bench, bench.core.step) <= MOST_LINES
    add(bench, "e")
    assert lines_of(bench, bench.core.step) > MOST_LINES
    step(bench)
    told = [(r.waiting_requests, r.waiting_tokens) for r in bench.of(Kind.LAUNCHED)]
    assert told == [(2, 40)] * 9 + [(1, 20)] * 4 + [(2, 40)] * 2
    assert all(r.oldest_s == pytest.approx(100.0, abs=1e-3) for r in bench.of(Kind.LAUNCHED)[1:9])
    bench.run()
    assert bench.meter.errors == 0
    bench.close()


def test_a_batch_that_differs_does_not_run_the_short_way(bench):
    add(bench, "a", "b", "c")
    step(bench, 8)
    bench.scheduler.abort("b")
    add(bench, "d")  # as many as before
    assert lines_of(bench, bench.core.step) > MOST_LINES
    bench.run()
    assert bench.meter.errors == 0
    steps = [output for output in bench.core.outputs if output.total_num_scheduled_tokens]
    for record, output in zip(bench.of(Kind.FINISHED), steps, strict=True):
        truth = bench.scheduler.truth[id(output)]
        assert record.load.decode_requests == len(truth.decode)
        assert record.load.decode_kv_tokens == sum(truth.decode.values())


def test_after_an_error_a_batch_is_read_from_scratch(bench):
    add(bench, "a", "b")
    step(bench, 8)
    bench.meter.doubt()
    assert lines_of(bench, bench.core.step) > MOST_LINES
    step(bench, 4)
    assert lines_of(bench, bench.core.step) <= MOST_LINES
    steps = [output for output in bench.core.outputs if output.total_num_scheduled_tokens]
    for record, output in zip(bench.of(Kind.LAUNCHED), steps, strict=False):
        assert record.load.decode_kv_tokens == sum(
            bench.scheduler.truth[id(output)].decode.values()
        )


def test_a_result_keeps_the_time_and_the_number_of_its_own_launch(bench):
    add(bench, "a", "b", tokens=20)
    bench.run()
    launched = {record.iteration: record for record in bench.of(Kind.LAUNCHED)}
    for record in bench.of(Kind.FINISHED):
        assert record.launch_s == launched[record.iteration].launch_s
        assert record.load == launched[record.iteration].load
        assert record.ready_s > record.launch_s
