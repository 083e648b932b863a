"""Batches that repeat the one before are told by a short way, and no others are taken for one."""

from __future__ import annotations

import math
import sys

import pytest
from fake_vllm import Request
from hooked import Bench

from voltana.serving.ring_reader import RingReader
from voltana_ring.layout import SLOTS, Kind

MOST_LINES = 45
"""Distinct lines that hooks run for such a batch: on a cold cache each costs, on any machine."""

MOST_LINES_OF_MOVES = 120
"""Likewise, for one that requests join or leave."""


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


@pytest.mark.parametrize("several", ["d", "def"])
def test_batches_that_requests_join_or_leave_run_no_more_lines_than_are_written_for_them(
    bench, several
):
    add(bench, "a", "b", "c")
    for _ in range(2):  # what is made once is made by then
        add(bench, *several, tokens=6)
        ran = [lines_of(bench, bench.core.step) for _ in range(12)]
        bench.scheduler.abort("c")
    assert max(ran) <= MOST_LINES_OF_MOVES
    assert bench.meter.errors == 0


@pytest.mark.parametrize("waits", [False, True])
def test_a_batch_that_repeats_the_one_before_is_told_at_once_and_without_a_bell(tmp_path, waits):
    bench = Bench(tmp_path, waits=waits)
    add(bench, "a", "b", "c")
    step(bench, 8)
    bench.rung()
    bench.core.step()
    assert [record.kind for record in bench.reader.drain()] == [Kind.FINISHED, Kind.LAUNCHED]
    launch_s = bench.now_s - 0.005  # of which 4 ms are on the device
    assert bench.reader.wait_s(launch_s) == pytest.approx(1.05 * 0.005)
    assert bench.reader.wait_s(launch_s + 0.0051) == 1e-3
    assert bench.reader.wait_s(launch_s + 0.5) == pytest.approx(0.05)
    assert bench.reader.wait_s(launch_s + 1e6) == 0.1
    with pytest.raises(BlockingIOError):
        bench.rung()  # for none of a run
    bench.scheduler.abort("b")
    bench.core.step()
    assert bench.reader.wait_s(launch_s) == pytest.approx(1.05 * 0.005)
    kinds = [record.kind for record in bench.reader.drain()]
    assert kinds == [Kind.CHANGES, Kind.FINISHED, Kind.LAUNCHED]
    assert bench.reader.wait_s(bench.now_s - 0.005) == pytest.approx(1.05 * 0.005)
    with pytest.raises(BlockingIOError):
        bench.rung()  # for a run behind another, which is looked at when it is due
    add(bench, "d")
    bench.core.step()
    assert bench.reader.drain()
    assert bench.reader.wait_s(bench.now_s) == math.inf
    assert bench.rung() == 1
    bench.close()


def test_what_comes_behind_a_run_that_has_just_ended_is_looked_for(tmp_path):
    """It is written a moment later, and no bell may ring for it."""
    bench = Bench(tmp_path)
    add(bench, "a", "b")
    step(bench, 8)
    put, looks_s = bench.meter._ring.put, []

    def put_late(*told):
        assert bench.reader.drain() == []
        looks_s.extend(bench.reader.wait_s(bench.now_s) for _ in range(9))
        put(*told)

    bench.meter._ring.put = put_late
    bench.scheduler.abort("b")
    bench.core.step()
    assert looks_s[:3] == [2e-3, 4e-3, 8e-3]
    assert max(looks_s) == 0.1
    assert [r.kind for r in bench.reader.drain()] == [Kind.CHANGES, Kind.FINISHED, Kind.LAUNCHED]
    assert bench.reader.wait_s(bench.now_s - 0.005) == pytest.approx(1.05 * 0.005)
    bench.close()


def test_where_the_engine_waits_other_batches_are_told_once_they_are_handed_over(tmp_path):
    bench = Bench(tmp_path)
    add(bench, "a", "b", "c")
    step(bench, 8)
    bench.scheduler.abort("b")
    bench.rung()
    assert lines_of(bench, bench.scheduler.schedule) <= MOST_LINES
    assert bench.reader.drain() == []
    bench.scheduler.get_grammar_bitmask(bench.meter.due)
    kinds = [record.kind for record in bench.reader.drain()]
    assert kinds == [Kind.CHANGES, Kind.FINISHED, Kind.LAUNCHED]
    bench.close()


def test_a_run_is_told_as_it_was_whenever_it_is_read_and_by_whom(tmp_path):
    """At each bell, late, by a reader that comes while it goes on, and by one that begins anew."""
    for asynchronous in (False, True):
        folder = tmp_path / str(asynchronous)
        folder.mkdir()
        bench = Bench(folder, asynchronous=asynchronous)
        late, joined, told = RingReader(bench.reader.path), None, []
        add(bench, "a", "b", "c", tokens=150)
        for number in range(120):
            step(bench)
            if number == 40:
                joined = RingReader(bench.reader.path)
                since = len(bench.records)
            if number == 70:
                position = bench.reader.position
                kept = len(bench.records)
            if number % 7 == 0:
                told += late.drain()
        told += late.drain()
        assert repr(told) == repr(bench.records)
        assert repr(joined.drain()) == repr(bench.records[since:])
        again = RingReader(bench.reader.path)
        again.go_back(position)
        assert repr(again.drain()) == repr(bench.records[kept:])
        bench.run()
        assert late.lost == late.torn == joined.torn == again.torn == bench.reader.torn == 0
        steps = [output for output in bench.core.outputs if output.total_num_scheduled_tokens]
        finished = bench.of(Kind.FINISHED)
        assert [record.iteration for record in finished] == list(range(1, len(steps) + 1))
        assert late.position < bench.reader.position
        for reader in (late, joined, again):
            reader.close()
        bench.close()


def test_a_reader_that_fell_behind_is_told_no_more_than_a_ring_of_slots_holds(tmp_path):
    bench = Bench(tmp_path)
    add(bench, "a", tokens=2500)
    for _ in range(2400):
        bench.core.step()
    records = bench.reader.drain()
    assert len(records) <= 2 * SLOTS
    launched = [record.iteration for record in records if record.kind is Kind.LAUNCHED]
    assert launched == list(range(launched[0], 2401))
    assert bench.reader.lost == 2400 - len(launched)
    for _ in range(30):
        bench.core.step()
    few = bench.reader.drain(4)
    assert [r.iteration for r in few if r.kind is Kind.LAUNCHED] == [2427, 2428, 2429, 2430]
    bench.close()


def test_an_engine_that_is_killed_leaves_a_run_that_is_read_to_its_last_pair(tmp_path):
    bench = Bench(tmp_path)
    add(bench, "a", tokens=200)
    step(bench, 30)
    half = RingReader(bench.reader.path, from_start=True)
    at = bench.meter._at
    bench.meter._times[at] = bench.now_s + 1.0  # the first half of a pair
    assert repr(half.drain()) == repr(bench.records)
    assert half.drain() == []
    bench.meter._times[at] = 0.0
    half.close()
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
