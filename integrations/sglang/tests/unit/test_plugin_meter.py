from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from fake_scheduler import Bench, ForwardMode, batch, decode_batch, request

from voltana.values import Load, Phase
from voltana_ring.layout import MAX_ENTRIES, Flag, Kind


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.meter.close()


def test_decode_counts_requests_and_tokens_and_times_the_iteration(bench):
    launched, finished = bench.run(decode_batch([request(), request()], [11, 21]), 1.0, 1.25)
    assert (launched.kind, finished.kind) == (Kind.LAUNCHED, Kind.FINISHED)
    assert launched.load == finished.load == Load.decode(2, 32)
    assert finished.load.phase is Phase.DECODE
    assert math.isnan(launched.latency_s)
    assert (finished.launch_s, finished.ready_s, finished.latency_s) == (1.0, 1.25, 0.25)
    assert launched.iteration == finished.iteration == 1


def test_an_unchanged_batch_is_counted_without_looking_at_its_lengths(bench):
    reqs = [request(), request()]
    same = decode_batch(reqs, [11, 21])
    bench.run(same, 1.0, 2.0)
    same.seq_lens_cpu = None  # would raise if it were read
    same.reqs = reqs
    records = bench.run(same, 2.0, 3.0)
    assert records[0].load.decode_kv_tokens == 34
    other = decode_batch([*reqs], [100, 100])  # a list of its own: merged, filtered, retracted
    assert bench.run(other, 3.0, 4.0)[0].load.decode_kv_tokens == 200


def test_speculative_decoding_is_summed_every_time(tmp_path):
    bench = Bench(tmp_path, speculative=True)
    reqs = [request(), request()]
    bench.run(decode_batch(reqs, [10, 10]), 1.0, 2.0)
    launched, _ = bench.run(decode_batch(reqs, [14, 12]), 2.0, 3.0)
    assert launched.load.decode_kv_tokens == 26
    assert Flag.SPECULATIVE in launched.flags
    verify = batch(ForwardMode.TARGET_VERIFY, reqs, lengths=[15, 13])
    assert bench.run(verify, 3.0, 4.0)[0].load == Load.decode(2, 28)


def test_lengths_that_are_not_resolved_yet_are_taken_from_the_requests(bench):
    unresolved = decode_batch([request(10, 3), request(5, 1)], [])
    unresolved.seq_lens_cpu = None
    assert bench.run(unresolved, 1.0, 2.0)[0].load.decode_kv_tokens == 19


def test_prefill_counts_new_tokens_and_attended_pairs(bench):
    prefill = batch(ForwardMode.EXTEND, [request(30), request(8)], new=[10, 8], old=[20, 0])
    launched, _ = bench.run(prefill, 1.0, 2.0)
    assert launched.load == Load.prefill([(10, 20), (8, 0)])


def test_a_mixed_batch_has_all_four_parts(bench):
    decoding = [request(50, 3), request(70, 2)]
    reqs = [request(30), *decoding]
    mixed = batch(ForwardMode.MIXED, reqs, new=[10, 1, 1], old=[20, 52, 71], decoding=decoding)
    launched, _ = bench.run(mixed, 1.0, 2.0)
    pairs = Load.prefill([(10, 20)]).prefill_attended_pairs
    assert launched.load == Load(
        prefill_tokens=10,
        prefill_attended_pairs=pairs,
        decode_requests=2,
        decode_kv_tokens=53 + 72,
    )
    assert launched.load.phase is Phase.MIXED


def test_latency_does_not_count_the_iteration_before_under_overlap(bench):
    """The second batch is launched while the first still runs."""
    first, second = decode_batch([request()], [5]), decode_batch([request()], [6])
    bench.clock.now_s = 1.0
    one = bench.meter.launch(first)
    bench.clock.now_s = 1.1
    two = bench.meter.launch(second)
    bench.clock.now_s = 2.0
    bench.meter.finish(first, SimpleNamespace(copy_done=None), one)
    bench.clock.now_s = 2.5
    bench.meter.finish(second, SimpleNamespace(copy_done=None), two)
    finished = [r for r in bench.drain() if r.kind is Kind.FINISHED]
    assert [r.latency_s for r in finished] == [1.0, 0.5]
    assert [r.iteration for r in finished] == [1, 2]


def test_the_copy_of_the_result_is_waited_for(bench):
    def wait():
        bench.clock.now_s = 7.0

    fake = decode_batch([request()], [5])
    bench.clock.now_s = 1.0
    launched = bench.meter.launch(fake)
    done = SimpleNamespace(synchronize=wait)
    bench.meter.finish(fake, SimpleNamespace(copy_done=done), launched)
    assert bench.drain()[-1].latency_s == 6.0


def test_without_overlap_the_device_itself_is_waited_for(tmp_path):
    bench = Bench(tmp_path)
    bench.meter._synchronize = lambda: setattr(bench.clock, "now_s", 9.0)
    assert bench.run(decode_batch([request()], [5]), 1.0, 2.0)[-1].latency_s == 8.0


def test_a_device_that_computes_in_run_batch_is_ready_when_that_returns(tmp_path):
    bench = Bench(tmp_path, synchronous=True)
    fake = decode_batch([request()], [5])
    bench.clock.now_s = 1.0
    launched = bench.meter.launch(fake)
    bench.clock.now_s = 1.5
    launched = bench.meter.returned(launched)
    bench.clock.now_s = 3.0  # under overlap results are processed after the next batch ran
    bench.meter.finish(fake, SimpleNamespace(copy_done=None), launched)
    record = bench.drain()[-1]
    assert (record.ready_s, record.latency_s, record.at_s) == (1.5, 0.5, 3.0)


def test_a_rank_without_work_among_others_that_have_some_rests(bench):
    """Data-parallel attention: it joins their iterations with batches that hold nothing."""
    kinds = [r.kind for r in bench.run(decode_batch([request()], [5]), 1.0, 1.005)]
    for number in range(100):
        empty = batch(ForwardMode.IDLE, [])
        assert bench.run(empty, 1.01 + number / 100, 1.02 + number / 100) == []
    kinds += [r.kind for r in bench.run(decode_batch([request()], [9]), 2.03, 2.035)]
    assert kinds == [Kind.LAUNCHED, Kind.FINISHED, Kind.IDLE, Kind.LAUNCHED, Kind.FINISHED]


def test_pipeline_stages_take_results_in_order_of_launch(tmp_path):
    bench = Bench(tmp_path, pipelined=True)
    fakes = [decode_batch([request()], [length]) for length in (5, 6)]
    idle = batch(ForwardMode.IDLE, [])
    for at_s, fake in enumerate([fakes[0], idle, fakes[1]]):
        bench.clock.now_s = float(at_s)
        bench.meter.launch(fake)
    for at_s, fake in enumerate([fakes[0], idle, fakes[1]], start=5):
        bench.clock.now_s = float(at_s)
        bench.meter.finish(fake, SimpleNamespace(copy_done=None), None)  # another result object
    finished = [r for r in bench.drain() if r.kind is Kind.FINISHED]
    assert [(r.iteration, r.load.decode_kv_tokens, r.latency_s) for r in finished] == [
        (1, 5, 5.0),
        (2, 6, 2.0),
    ]


def test_idle_and_unknown_modes_are_no_iterations(bench):
    assert bench.run(batch(ForwardMode.IDLE, []), 1.0, 2.0) == []
    assert bench.meter.iterations == 0


def test_idling_is_told_at_once_and_then_only_now_and_then(bench):
    bench.run(decode_batch([request()], [5]), 1.0, 2.0)
    for step in range(1000):
        bench.clock.now_s = 2.0 + step / 1000
        bench.meter.idle()
    assert [r.kind for r in bench.drain()] == [Kind.IDLE, Kind.IDLE]


def test_the_queue_is_reported_with_arrivals_in_the_engines_order(bench):
    waiting = [request(100, arrived_s=3.0), request(50, 5, arrived_s=2.0)]
    bench.scheduler.waiting_queue = waiting
    prefill = batch(ForwardMode.EXTEND, [request(8, arrived_s=1.0)], new=[8], old=[0])
    launched, finished = bench.run(prefill, 4.0, 5.0)
    assert (launched.waiting_requests, launched.waiting_tokens) == (2, 155)
    assert launched.oldest_s == 1.0  # of the batch itself
    assert [tuple(w) for w in launched.waiting] == [(3.0, 100, 0), (2.0, 55, 0)]
    assert finished.waiting == ()


@pytest.mark.parametrize(
    ("batch_s", "queue_s", "oldest_s"),
    [
        ([2.0, 1.0], [], 1.0),
        ([2.0], [1.5], 1.5),
        ([1.0], [1.5], 1.0),
        ([0.0], [1.5], 1.5),
        ([1.0, 0.0], [0.0, 3.0, 0.0], 1.0),
    ],
)
def test_the_oldest_arrival_is_of_batch_and_queue(bench, batch_s, queue_s, oldest_s):
    bench.scheduler.waiting_queue = [request(5, arrived_s=at_s) for at_s in queue_s]
    reqs = [request(8, arrived_s=at_s) for at_s in batch_s]
    prefill = batch(ForwardMode.EXTEND, reqs, new=[8] * len(reqs), old=[0] * len(reqs))
    launched, finished = bench.run(prefill, 4.0, 5.0)
    assert launched.oldest_s == finished.oldest_s == oldest_s


def test_the_rest_of_a_chunked_prompt_comes_first(bench):
    chunked = request(100, arrived_s=1.0)
    bench.scheduler.chunked_req = chunked
    bench.scheduler.waiting_queue = [request(7, arrived_s=2.0)]
    prefill = batch(ForwardMode.EXTEND, [request(5), chunked], new=[5, 32], old=[0, 16])
    launched, _ = bench.run(prefill, 4.0, 5.0)
    assert [tuple(w) for w in launched.waiting] == [(1.0, 52, 48), (2.0, 7, 0)]
    assert (launched.waiting_requests, launched.waiting_tokens) == (2, 59)


def test_a_long_queue_is_cut_and_says_so(bench):
    bench.scheduler.waiting_queue = [request(10, arrived_s=float(i)) for i in range(1, 1001)]
    prefill = batch(ForwardMode.EXTEND, [request(8)], new=[8], old=[0])
    launched, _ = bench.run(prefill, 4.0, 5.0)
    assert len(launched.waiting) == MAX_ENTRIES
    assert (launched.waiting_requests, launched.waiting_tokens) == (1000, 10_000)
    assert Flag.CUT in launched.flags


def waiting_of(bench, *, new=8, old=0, reqs=None):
    """What waits behind a prefill batch."""
    reqs = reqs or [request(8)]
    launched, _ = bench.run(batch(ForwardMode.EXTEND, reqs, new=[new], old=[old]), 4.0, 5.0)
    return launched.waiting_tokens, [tuple(w)[1:] for w in launched.waiting]


@pytest.mark.parametrize(
    "noted",
    [
        {"num_matched_prefix_tokens": 630},
        {"prefix_indices": [0] * 600, "host_hit_length": 30},
        {"prefix_indices": [0] * 630},
    ],
)
def test_what_the_prefix_cache_holds_does_not_wait(bench, noted):
    first = request(640)
    bench.scheduler.waiting_queue = [first, request(5)]
    for name, value in noted.items():
        setattr(first, name, value)
    assert waiting_of(bench) == (15, [(10, 630), (5, 0)])
    bench.scheduler.waiting_queue = [request(640)] * 200  # of a long queue the mean
    vars(bench.scheduler.waiting_queue[0]).update(noted)
    assert waiting_of(bench)[0] == 2000


def test_a_whole_match_leaves_one_token_to_compute(bench):
    bench.scheduler.waiting_queue = [request(64)]
    bench.scheduler.waiting_queue[0].num_matched_prefix_tokens = 64
    assert waiting_of(bench) == (1, [(1, 63)])


def test_where_nothing_is_looked_up_recent_hits_stand_for_it(bench):
    """As under SGLang's first-come policy with a plain radix cache."""
    for _ in range(50):
        waiting_of(bench, new=10, old=630)
    bench.scheduler.waiting_queue = [request(640)]
    assert waiting_of(bench) == (10, [(10, 630)])
    bench.scheduler.policy.waiting_queue_prefix_matched = lambda _queue: True
    assert waiting_of(bench) == (640, [(640, 0)])  # it was looked up, and nothing was found


def test_chunks_of_a_long_prompt_are_no_hits(bench):
    chunked = request(1000)
    for done in range(0, 1000, 100):
        bench.scheduler.chunked_req = chunked if done < 900 else None
        waiting_of(bench, new=100, old=done, reqs=[chunked])
    bench.scheduler.waiting_queue = [request(640)]
    assert waiting_of(bench) == (640, [(640, 0)])


def test_a_match_that_is_noted_later_is_seen(bench):
    """Sums of an unchanged queue are kept, but not beyond a match."""
    first = request(640)
    bench.scheduler.waiting_queue = [first]
    step = decode_batch([request()], [5])
    assert bench.run(step, 1.0, 2.0)[0].waiting_tokens == 640
    first.num_matched_prefix_tokens = 630
    assert bench.run(step, 3.0, 4.0)[0].waiting_tokens == 10


def test_a_decode_server_reports_what_waits_for_room_but_not_what_is_in_transfer(tmp_path):
    bench = Bench(tmp_path, mode="decode")
    bench.scheduler.waiting_queue = [request(10)]
    bench.scheduler.disagg_decode_prealloc_queue.queue = [
        SimpleNamespace(req=request(20), waiting_for_input=True),
        SimpleNamespace(req=request(40), waiting_for_input=False),
    ]
    launched, _ = bench.run(decode_batch([request()], [5]), 1.0, 2.0)
    assert (launched.waiting_requests, launched.waiting_tokens) == (2, 30)


def test_a_prefill_server_reports_requests_in_their_handshake_too(tmp_path):
    bench = Bench(tmp_path, mode="prefill")
    bench.scheduler.disagg_prefill_bootstrap_queue.queue = [request(33, arrived_s=0.5)]
    prefill = batch(ForwardMode.EXTEND, [request(8, room=9)], new=[8], old=[0])
    launched, _ = bench.run(prefill, 1.0, 2.0)
    assert (launched.waiting_requests, launched.waiting_tokens) == (1, 33)
    assert launched.rooms == (9,)


def test_requests_that_join_a_decode_batch_are_named_once(tmp_path):
    bench = Bench(tmp_path, mode="decode")
    first, second = request(room=2**63 - 1), request(room=4)
    one = [first]
    assert bench.run(decode_batch(one, [5]), 1.0, 2.0)[0].rooms == (2**63 - 1,)
    assert bench.run(decode_batch(one, [5]), 2.0, 3.0)[0].rooms == ()
    both = [first, second]  # merged without a step of its own
    assert bench.run(decode_batch(both, [5, 6]), 3.0, 4.0)[0].rooms == (4,)
    assert bench.run(decode_batch([second], [7]), 4.0, 5.0)[0].rooms == ()
    joined = batch(ForwardMode.PREBUILT, [request(room=9)])
    assert bench.run(joined, 5.0, 6.0) == []
    many = [request(room=100 + number) for number in range(40)]
    named = []
    fake = decode_batch(many, [5] * 40)
    for step in range(4):
        records = bench.run(fake, 6.0 + step, 7.0 + step)
        named += [room for record in records for room in record.rooms]
    assert sorted(named) == [100 + number for number in range(40)]


def names(records):
    return sorted(room for record in records for room in record.rooms)


def test_a_prefill_server_names_what_waits_with_the_record_that_counts_it(tmp_path):
    """In its queue and in its handshake, once each, however many come at a time."""
    bench = Bench(tmp_path, mode="prefill")
    queued = [request(8, room=number) for number in range(100)]
    bench.scheduler.waiting_queue = queued[:70]
    bench.scheduler.disagg_prefill_bootstrap_queue.queue = queued[70:]
    running = request(8, room=1000)
    prefill = batch(ForwardMode.EXTEND, [running], new=[8], old=[0])
    bench.clock.now_s = 1.0
    bench.meter.launch(prefill)
    records = bench.drain()  # what is read at one bell is published together
    assert [record.kind for record in records] == [*[Kind.NAMES] * 3, Kind.LAUNCHED]
    assert names(records) == [*range(100), 1000]
    assert records[-1].waiting_requests == 100
    later = batch(ForwardMode.EXTEND, queued[:2], new=[8, 8], old=[0, 0])
    bench.scheduler.waiting_queue = [*queued[2:70], request(8, room=500)]
    assert names(bench.run(later, 2.0, 3.0)) == [500]


def test_an_idle_prefill_server_names_what_waits_too(tmp_path):
    bench = Bench(tmp_path, mode="prefill")
    waiting = request(8, room=7)
    bench.scheduler.disagg_prefill_bootstrap_queue.queue = [waiting]
    bench.clock.now_s = 5.0
    bench.meter.idle()
    (record,) = bench.drain()
    assert (record.kind, record.waiting_requests, record.rooms) == (Kind.IDLE, 1, (7,))
    prefill = batch(ForwardMode.EXTEND, [waiting], new=[8], old=[0])
    bench.scheduler.disagg_prefill_bootstrap_queue.queue = []
    assert names(bench.run(prefill, 6.0, 7.0)) == []


def test_prompts_in_their_handshake_are_taken_for_as_cached_as_those_before(tmp_path):
    bench = Bench(tmp_path, mode="prefill")
    bench.scheduler.disagg_prefill_bootstrap_queue.queue = [request(6400, room=n) for n in (1, 2)]
    bench.scheduler.policy.waiting_queue_prefix_matched = lambda _queue: True
    before = request(6400)
    prefill = batch(ForwardMode.EXTEND, [before], new=[64], old=[6336])
    for step in range(40):
        launched, _ = bench.run(prefill, 2.0 * step + 1, 2.0 * step + 2)
    assert 128 <= launched.waiting_tokens <= 160  # of 12,800
    assert all(entry.new_tokens + entry.done_tokens == 6400 for entry in launched.waiting)


def test_the_contexts_that_wait_at_a_decode_server_count_whole(tmp_path):
    bench = Bench(tmp_path, mode="decode")
    waiting = request(6400)
    waiting.num_matched_prefix_tokens = 6300
    bench.scheduler.waiting_queue = [waiting]
    assert bench.run(decode_batch([request()], [5]), 1.0, 2.0)[0].waiting_tokens == 6400


def test_a_unified_server_has_no_transfers(bench):
    fake = decode_batch([request(room=None)], [5])
    del fake.reqs[0].bootstrap_room
    assert bench.run(fake, 1.0, 2.0)[0].rooms == ()


def test_arrivals_that_were_not_noted_are_unknown(bench):
    unknown = request(8)
    unknown.time_stats = None
    prefill = batch(ForwardMode.EXTEND, [unknown], new=[8], old=[0])
    launched, _ = bench.run(prefill, 1.0, 2.0)
    assert math.isnan(launched.oldest_s)
