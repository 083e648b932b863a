"""What hooks tell of requests: each once, with the times that a promise is about."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_scheduler import Bench, ForwardMode, batch, decode_batch, request

from voltana_ring.layout import MAX_CHANGES, Change, Kind
from voltana_sglang.hooks.followed import MOST_AWAY, name


class FINISH_ABORT:  # noqa: N801  (SGLang's own name)
    pass


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.meter.close()


def told(bench):
    """What was told since the last call, as (kind, name, time, tokens)."""
    bench.drain()
    found, bench.changes = bench.changes, []
    return [(one.what, one.name, one.at_s, one.tokens) for one in found]


def end(one, tokens, reason="length"):
    one.finished_reason, one.output_ids = reason, [0] * tokens


def test_a_request_is_followed_from_its_arrival_to_its_last_token(bench):
    one, other = request(arrived_s=0.5), request(arrived_s=0.9)
    bench.scheduler.waiting_queue = [other]
    bench.run(batch(ForwardMode.EXTEND, [one], new=[10], old=[0]), 1.0, 1.5)
    seen = told(bench)
    assert sorted(seen[:2], key=lambda c: c[2]) == [
        (Change.WAITS, name(one), 0.5, 0), (Change.WAITS, name(other), 0.9, 0),
    ]  # fmt: skip
    assert seen[2:] == [(Change.FIRST, name(one), 1.5, 1)]
    bench.scheduler.waiting_queue = []
    bench.run(batch(ForwardMode.EXTEND, [other], new=[10], old=[0]), 2.0, 2.5)
    assert told(bench) == [(Change.FIRST, name(other), 2.5, 1)]
    both = [one, other]
    for step in range(3):
        bench.run(decode_batch(both, [11, 11]), 3.0 + step, 3.5 + step)
    # A mean ITL runs from the first token, whenever the decoding begins.
    joined = {(Change.JOINED, name(one), 1.5, 0), (Change.JOINED, name(other), 2.5, 0)}
    assert set(told(bench)) == joined
    end(one, 4)
    bench.run(decode_batch([other], [14]), 6.0, 6.5)
    assert told(bench) == [(Change.ENDED, name(one), 5.5, 4)]
    end(other, 5)
    bench.clock.now_s = 7.0
    bench.meter.idle()
    assert told(bench) == [(Change.ENDED, name(other), 6.5, 5)]
    bench.meter._idle_s = 0.0
    bench.meter.idle()
    assert told(bench) == []


def test_a_prompt_in_parts_has_its_first_token_with_the_last_of_them(bench):
    one = request(100, arrived_s=0.5)
    bench.scheduler.chunked_req = one
    for step in range(3):
        bench.run(batch(ForwardMode.EXTEND, [one], new=[30], old=[30 * step]), 1.0 + step, 1.5)
    assert [change[0] for change in told(bench)] == [Change.WAITS]
    bench.scheduler.chunked_req = None
    bench.run(batch(ForwardMode.EXTEND, [one], new=[10], old=[90]), 5.0, 5.5)
    assert told(bench) == [(Change.FIRST, name(one), 5.5, 1)]


def test_an_abort_is_told_with_the_time_of_the_last_token(bench):
    one, other = request(), request()
    both = [one, other]
    bench.run(decode_batch(both, [11, 11]), 1.0, 1.5)
    told(bench)
    end(one, 2, FINISH_ABORT())
    bench.run(decode_batch([other], [12]), 9.0, 9.5)
    assert told(bench) == [(Change.ABORTED, name(one), 1.5, 2)]


def test_a_prompt_that_vanishes_from_the_queue_is_gone(bench):
    one, other = request(arrived_s=0.5), request(arrived_s=0.6)
    bench.scheduler.waiting_queue = [one]
    bench.clock.now_s = 1.0
    bench.meter.idle()
    assert told(bench) == [(Change.WAITS, name(one), 0.5, 0)]
    bench.scheduler.waiting_queue = []
    bench.run(batch(ForwardMode.EXTEND, [other], new=[10], old=[0]), 2.0, 2.5)
    assert (Change.GONE, name(one), 2.0, 0) in told(bench)


def test_a_retracted_request_comes_back_and_is_told_once(bench):
    one, other = request(), request()
    bench.run(decode_batch([one, other], [11, 11]), 1.0, 1.5)
    bench.run(decode_batch([other], [12]), 2.0, 2.5)  # no room for it any more
    told(bench)
    one.output_ids = [0] * 3
    bench.scheduler.waiting_queue = [one]
    bench.run(batch(ForwardMode.EXTEND, [one], new=[13], old=[0]), 3.0, 3.5)  # computed again
    bench.scheduler.waiting_queue = []
    bench.run(decode_batch([one, other], [14, 13]), 4.0, 4.5)
    assert told(bench) == []
    end(one, 6)
    bench.run(decode_batch([other], [14]), 5.0, 5.5)
    assert told(bench) == [(Change.ENDED, name(one), 4.5, 6)]


def test_what_is_aborted_while_it_is_away_ends_all_the_same(bench):
    gone, other = [request() for _ in range(MOST_AWAY + 2)], request()
    bench.run(decode_batch([*gone, other], [11] * 70), 1.0, 1.5)
    bench.run(decode_batch([other], [12]), 2.0, 2.5)
    ended = {change[1] for change in told(bench) if change[0] is Change.ABORTED}
    assert len(ended) == 2  # more than are waited for
    (first, *rest) = [one for one in gone if name(one) not in ended]
    end(first, 3, FINISH_ABORT())
    third = request()
    bench.run(decode_batch([other, third], [13, 11]), 3.0, 3.5)
    assert (Change.ABORTED, name(first), 2.5, 3) in told(bench)
    bench.scheduler.waiting_queue = rest[:1]
    for running in (other, third):
        end(running, 5)
    bench.clock.now_s = 9.0
    bench.meter.idle()
    seen = told(bench)
    assert {c[1] for c in seen if c[0] is Change.ABORTED} == {name(one) for one in rest[1:]}
    assert {c[1] for c in seen if c[0] is Change.ENDED} == {name(other), name(third)}


def overlap(bench, one, first, second, tokens):
    """Launch at 1.0 and 1.4 s; the first result, at 1.5 s, ends a request, and then all idles."""
    launched = []
    for at_s, fake in ((1.0, first), (1.4, second)):
        bench.clock.now_s = at_s
        launched.append(bench.meter.launch(fake))
    result = SimpleNamespace(copy_done=None)
    bench.clock.now_s = 1.5
    bench.meter.finish(first, result, launched[0])
    end(one, tokens)
    bench.clock.now_s = 2.0
    bench.meter.finish(second, result, launched[1])
    bench.clock.now_s = 3.0
    bench.meter.idle()


def test_under_overlap_a_batch_of_requests_that_have_ended_gives_no_token(bench):
    """The next batch is launched before the result is there that ends its requests."""
    one = request()
    overlap(bench, one, decode_batch([one], [11]), decode_batch([one], [12]), 2)
    assert told(bench)[-1] == (Change.ENDED, name(one), 1.5, 2)


def test_under_overlap_a_request_joins_before_its_first_token_is_known(bench):
    one = request(arrived_s=0.5)
    prefill = batch(ForwardMode.EXTEND, [one], new=[10], old=[0])
    bench.clock.now_s = 1.0
    launched = bench.meter.launch(prefill)
    bench.clock.now_s = 1.1
    bench.meter.launch(decode_batch([one], [11]))
    bench.clock.now_s = 1.5
    bench.meter.finish(prefill, SimpleNamespace(copy_done=None), launched)
    assert told(bench)[1:] == [
        (Change.JOINED, name(one), 1.1, 0), (Change.FIRST, name(one), 1.5, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("before_s", [None, 0.3])
def test_an_answer_of_one_token_ends_with_it(bench, before_s):
    """Under overlap it is decoded once more; no decode step may have made a token before."""
    if before_s is not None:
        older = request()
        bench.run(decode_batch([older], [11]), 0.2, before_s)
        end(older, 2)
        bench.meter.idle()
        told(bench)
    one = request(arrived_s=0.5)
    prompt = batch(ForwardMode.EXTEND, [one], new=[10], old=[0])
    overlap(bench, one, prompt, decode_batch([one], [11]), 1)
    assert told(bench)[-2:] == [
        (Change.FIRST, name(one), 1.5, 1),
        (Change.ENDED, name(one), 1.5, 1),
    ]
    assert bench.reader.torn == 0


def test_an_unchanged_batch_tells_nothing_and_many_changes_take_several_records(bench):
    many = [request() for _ in range(2 * MAX_CHANGES + 3)]
    fake = decode_batch(many, [11] * len(many))
    bench.clock.now_s = 1.0
    bench.meter.launch(fake)
    records = bench.reader.drain()
    changes = [record for record in records if record.kind is Kind.CHANGES]
    assert [len(record.changes) for record in changes] == [MAX_CHANGES, MAX_CHANGES, 3]
    assert [record.iteration for record in changes] == [0, MAX_CHANGES, 2 * MAX_CHANGES]
    assert records[-1].kind is Kind.LAUNCHED
    assert {record.load for record in records} == {records[-1].load}
    bench.meter.launch(fake)
    assert [record.kind for record in bench.reader.drain()] == [Kind.LAUNCHED]


def test_a_list_that_an_older_version_merged_into_is_a_changed_batch(bench):
    reqs = [request()]
    bench.run(decode_batch(reqs, [11]), 1.0, 2.0)
    told(bench)
    reqs.append(request())
    launched, _ = bench.run(decode_batch(reqs, [12, 40]), 2.0, 3.0)
    assert launched.load.decode_kv_tokens == 52
    assert [change[0] for change in told(bench)] == [Change.JOINED]


@pytest.mark.parametrize("option", [{"pipelined": True}, {"follows": False}])
def test_where_requests_cannot_be_followed_nothing_is_told(tmp_path, option):
    bench = Bench(tmp_path, mode="decode", **option)
    one = request(room=7)
    del one.finished_reason
    launched, *_ = bench.run(decode_batch([one], [11]), 1.0, 2.0)
    bench.run(batch(ForwardMode.EXTEND, [request()], new=[10], old=[0]), 2.0, 3.0)
    bench.run(decode_batch([request()], [11]), 3.0, 4.0)
    assert launched.rooms == (7,)
    assert told(bench) == []
