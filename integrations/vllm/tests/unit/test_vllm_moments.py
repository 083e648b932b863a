"""What a reader makes of the scheduler's moments: whenever it begins, and whatever it misses."""

from __future__ import annotations

import math
import random

import pytest
from fake_vllm import Request
from hooked import Bench
from test_vllm_random import Scenario

from voltana.serving.agent.told_requests import ToldRequests
from voltana.serving.ring_reader import RingReader
from voltana.serving.ring_records import RingError
from voltana.serving.ring_scheduled import decode_scheduled
from voltana_ring.layout import Change, Kind
from voltana_ring.scheduled import ARRIVED, NEW, PROMPT, ROWS, SCHEDULED, Row, Told, pieces


class Beside:
    """Readers that begin anew now and then beside one that reads on.

    Args:
        bench: What is read.
        rng: When they begin.
    """

    def __init__(self, bench, rng):
        self.bench, self.rng, self.begun = bench, rng, []
        step = bench.core.step

        def watched():
            went = step()
            bench.records += bench.reader.drain()
            if rng.random() < 0.02:
                self.begin()
            return went

        bench.core.step = watched

    def begin(self):
        """One at what comes next, and one that goes back to where the first has read."""
        since, path = len(self.bench.records), self.bench.reader.path
        again = RingReader(path)
        again.go_back(self.bench.reader.position, self.bench.reader._account.told)
        self.begun += [(RingReader(path), since), (again, since)]

    def check(self):
        """All told what the first has told since."""
        for reader, since in self.begun:
            assert repr(reader.drain()) == repr(self.bench.records[since:])
            assert reader.lost == reader.torn == 0
            reader.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_that_comes_late_tells_what_one_does_that_was_always_there(tmp_path, seed):
    scenario = Scenario(tmp_path, seed)
    beside = Beside(scenario.bench, random.Random(seed))
    scenario.run()
    beside.check()
    scenario.bench.close()


def feed(bench, count, *, tokens=4):
    for number in range(count):
        request = Request(f"r{number}", 20, tokens + number % 3, bench.wall_s)
        bench.scheduler.add_request(request)
        bench.core.step()
        bench.records += bench.reader.drain()


def test_a_ring_that_went_round_is_read_on_by_the_next_agent_under_the_same_numbers(tmp_path):
    bench = Bench(tmp_path)
    bench.scheduler.add_request(Request("long", 20, 3000, bench.wall_s))
    feed(bench, 1500)
    told = ToldRequests()
    for record in bench.of(Kind.CHANGES):
        told.take(record)
    again, since = RingReader(bench.reader.path), len(bench.records)
    again.go_back(bench.reader.position, told.told)
    bench.scheduler.abort("long")  # of which nothing is in the ring any more
    bench.run(40)
    records = again.drain()
    assert repr(records) == repr(bench.records[since:])
    for record in records:
        if record.kind is Kind.CHANGES:
            told.take(record)
    assert told.gaps == 0
    ends = [c for c in bench.changes if c.name == hash("long") % 2**64]
    assert [c.what for c in ends] == [Change.WAITS, Change.FIRST, Change.JOINED, Change.ABORTED]
    again.close()
    bench.close()


def test_what_was_overwritten_unread_shows_as_a_gap(tmp_path):
    bench = Bench(tmp_path)
    feed(bench, 10)
    late, told = RingReader(bench.reader.path), ToldRequests()
    feed(bench, 1200)
    for record in late.drain():
        if record.kind is Kind.CHANGES:
            told.take(record)
    feed(bench, 1200)
    for record in late.drain():
        if record.kind is Kind.CHANGES:
            told.take(record)
    assert late.lost > 0
    assert told.gaps == 1
    late.close()
    bench.close()


def test_a_moment_that_is_torn_shows_as_a_gap_and_leaves_no_wrong_counts(tmp_path):
    bench = Bench(tmp_path)
    feed(bench, 6, tokens=20)
    put = bench.meter._ring.put

    def put_torn(payload):
        put(payload[:-8] if payload[0] == Kind.SCHEDULED else payload)

    told = [bench.reader._account.told]
    bench.meter._ring.put = put_torn
    bench.scheduler.add_request(Request("torn", 20, 9, bench.wall_s))
    bench.core.step()
    bench.meter._ring.put = put
    assert bench.reader.drain() == []
    assert bench.reader.torn == 1
    bench.run(3)
    changes = bench.of(Kind.CHANGES)
    assert changes[-1].iteration > told[0]
    for record in bench.of(Kind.LAUNCHED):
        truth = bench.scheduler.truth[id(bench.core.outputs[record.iteration - 1])]
        assert record.load.decode_kv_tokens == sum(truth.decode.values())
        assert record.load.decode_requests == len(truth.decode)
    bench.close()


def test_one_that_waits_again_is_told_again_though_nothing_waited_in_between(tmp_path):
    bench = Bench(tmp_path, running=2)
    for name in ("a", "b", "c"):
        bench.scheduler.add_request(Request(name, 20, 40, bench.wall_s))
    bench.run(4)
    (waits,) = bench.scheduler.waiting
    bench.scheduler.waiting.clear()
    del bench.scheduler.requests["c"]
    bench.scheduler.finished_req_ids.add("c")
    bench.run(3)
    assert bench.of(Kind.LAUNCHED)[-1].waiting_requests == 0
    bench.scheduler.requests["c"] = waits
    bench.scheduler.waiting.append(waits)
    bench.run(1)
    last = bench.of(Kind.LAUNCHED)[-1]
    assert (last.waiting_requests, last.waiting_tokens) == (1, 20)
    assert last.oldest_s == pytest.approx(100.0, abs=0.1)
    bench.close()


WHOLE = (7, 0, 3, 12.5, 2, 12.25, 12.5, 1.7e9, 4, 23, 900, 2)
ROW = PROMPT.pack(Row.PROMPT, 2, 20, 0, 20, 5)


def moment(row=ROW, **changes):
    fields = list(WHOLE)
    for index, value in changes.items():
        fields[int(index[1:])] = value
    return SCHEDULED.pack(*fields) + row


def test_a_moment_is_read_as_it_was_written():
    told, rest = decode_scheduled(moment() + b"behind")
    assert (told.iteration, told.rows, told.tokens, told.waiting) == (3, 4, 23, 2)
    assert [tuple(prompt) for prompt in told.prompts] == [(5, 20, 0, 20, 2)]
    assert rest == b"behind"


def test_a_row_of_one_that_is_new_stands_for_two():
    name, rid = -7, b"cmpl-1"
    rows = (
        ARRIVED.pack(Row.ARRIVED, 0, name, 1.7e9, rid) + PROMPT.pack(Row.PROMPT, 2, 20, 4, 24, name)
    )  # fmt: skip
    one = NEW.pack(Row.NEW, 2, 20, 4, 24, name, 1.7e9, rid)
    assert decode_scheduled(moment(one)) == decode_scheduled(moment(rows))


def test_rows_are_cut_between_and_none_is_lost():
    rows = b"".join(
        row.pack(kind, *[b"" if code == "s" else 1 for code in row.format if code in "BIqds"][1:])
        for kind, row in ROWS.items()
    )
    for most in (104, 128, 200, 10_000):
        cut = list(pieces(9 * rows, most))
        assert b"".join(cut) == 9 * rows
        assert max(map(len, cut)) <= most
        assert all(decode_scheduled(moment(piece, _1=Told.MORE))[1] == b"" for piece in cut)


@pytest.mark.parametrize(
    "changes",
    [
        {"_3": math.nan}, {"_3": -1.0}, {"_5": math.inf}, {"_6": 1e11}, {"_8": 0}, {"_8": -1},
        {"_9": 3}, {"_10": -1}, {"_10": 2**41}, {"_11": -1}, {"_2": 2**63}, {"row": ROW[:-1]},
        {"row": PROMPT.pack(Row.PROMPT, 2, 2**31, 0, 20, 5)}, {"row": 9 * ROW},
    ],
)  # fmt: skip
def test_a_moment_that_no_scheduler_can_say_is_refused(changes):
    with pytest.raises(RingError):
        decode_scheduled(moment(**changes))


@pytest.mark.parametrize("length", [0, 1, SCHEDULED.size - 1, SCHEDULED.size + 1])
def test_half_a_moment_is_refused(length):
    with pytest.raises(RingError):
        decode_scheduled(moment()[:length])


@pytest.mark.parametrize("seed", range(60))
def test_bytes_of_any_kind_are_read_or_refused(seed, tmp_path):
    """Nothing but a `RingError` comes of them, and a reader goes on behind them."""
    rng = random.Random(seed)
    raw = bytearray(moment())
    for _ in range(rng.randint(1, 6)):
        raw[rng.randrange(1, len(raw))] = rng.randrange(256)
    bench = Bench(tmp_path)
    bench.meter._ring.put(bytes(raw))
    bench.meter._ring.put(moment())
    assert bench.reader.drain()
    assert bench.reader.torn <= 1
    bench.close()
