"""ForwardPassMetrics under attack: replays, drops, strangers, nonsense, floods and silence."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.forward_pass_publisher import decode, encode, message, prefill
from tests.serving.test_forward_pass import read
from voltana.serving.sensors import forward_pass, forward_pass_receiver
from voltana.serving.sensors.forward_pass import ForwardPassReader, ForwardPassSources
from voltana.serving.sensors.forward_pass_receiver import Came
from voltana_ring.layout import Kind


class Clock:
    """Time that a test sets."""

    def __init__(self):
        self.at_s = 0.0

    def now_s(self):
        return self.at_s


class Reading:
    """A reader, and a connection that a test speaks on."""

    def __init__(self):
        self.came, self.clock = [], Clock()
        receiver = SimpleNamespace(
            endpoint="ipc:///x", overrun=0, take=lambda: self.came.pop(0) if self.came else None
        )
        self.reader = ForwardPassReader(
            Path("x"), receiver, role="decode", max_batch_tokens=4096, time=self.clock
        )

    def tell(self, *told, every_s=0.01):
        """Send messages, one after the other; the records that were made of them."""
        made = []
        for one in told:
            self.clock.at_s += every_s
            raw = one if isinstance(one, bytes) else encode(one)
            self.came.append(Came(self.clock.at_s, raw))
            made += self.reader.drain()
        return made


def ends(records):
    return [one for one in records if one.kind is Kind.FINISHED]


def steps(first, count):
    """A batch of four that goes on."""
    return [decode(i, 4, 100 + 4 * i) for i in range(first, first + count)]


def test_a_message_that_comes_again_is_no_second_iteration():
    one = Reading()
    told = steps(0, 10)
    made = one.tell(*(m for m in told for _ in range(3)))
    assert len(ends(made)) == 10
    assert (one.reader.torn, one.reader.lost) == (20, 0)
    assert not one.reader.replaced()
    assert "came again" in one.reader.why


def test_old_messages_that_are_played_again_in_order_are_no_restart():
    one = Reading()
    one.tell(*steps(0, 100))
    made = one.tell(*steps(80, 20))
    assert ends(made) == []
    assert not one.reader.replaced()
    assert len(ends(one.tell(*steps(100, 10)))) == 10


def test_messages_that_overtake_each_other_lose_some_and_end_nothing():
    one = Reading()
    told = steps(0, 200)
    rng = random.Random(5)
    mixed = sorted(told, key=lambda m: m["counter_id"] + rng.uniform(0, 3))
    made = one.tell(*mixed)
    assert not one.reader.replaced()
    assert one.reader.torn > 20
    assert len(ends(made)) + one.reader.torn == 200
    numbers = [r.iteration for r in ends(made)]
    assert numbers == sorted(set(numbers))


def test_of_two_senders_on_one_address_one_is_heard_and_the_other_named():
    one = Reading()
    first, second = steps(1000, 50), [decode(i, 9, 9000 + 9 * i) for i in range(50)]
    made = one.tell(*(m for pair in zip(first, second, strict=True) for m in pair))
    assert {r.load.decode_requests for r in ends(made)} == {4}
    assert len(ends(made)) == 50
    assert not one.reader.replaced()
    assert "second sender" in one.reader.why


def test_an_engine_that_counts_from_the_beginning_is_another_one_and_its_first_are_not_learned():
    one = Reading()
    one.tell(*steps(0, 50))
    assert ends(one.tell(*steps(0, 2))) == []
    assert not one.reader.replaced()
    one.tell(*steps(2, 1))
    assert one.reader.replaced()


def test_another_rank_is_refused_whatever_it_counts():
    one = Reading()
    other = decode(11, 7, 700) | {"dp_rank": 1}
    made = one.tell(*steps(0, 10), other, *steps(10, 10))
    assert {r.load.decode_requests for r in ends(made)} == {4}
    assert len(ends(made)) == 20
    assert (one.reader.torn, one.reader.lost) == (1, 0)
    assert "dp_rank = 1 where 0 spoke before: must be one rank an address" in one.reader.why


def test_a_number_that_no_engine_can_have_reached_counts_no_losses():
    one = Reading()
    made = one.tell(*steps(0, 10), decode(2**62, 4, 200), *steps(10, 10))
    assert len(ends(made)) == 20
    assert (one.reader.torn, one.reader.lost) == (1, 0)
    made = one.tell(decode(100_000, 4, 9000), every_s=60.0)  # a minute without a word
    assert len(ends(made)) == 1
    assert one.reader.lost == 100_000 - 20


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (message(1, 0.01, sum_decode_kv_tokens=5), "5 tokens of no request"),
        (message(1, 0.01, sum_prefill_tokens=5), "5 tokens of no request"),
        (message(1, 0.01, sum_prefill_kv_tokens=5), "5 tokens of no request"),
        (decode(1, 5, 4), "each request has a token"),
        (decode(1, 4, 100) | {"dp_rank": -1}, "dp_rank"),
        (decode(1, 4, 100) | {"counter_id": 2**64 - 1}, "counter_id"),
        (decode(1, 4, 100) | {"scheduled_requests": []}, "must be a map"),
    ],
)
def test_sums_that_cannot_be_are_refused(told, said):
    one = Reading()
    assert one.tell(told) == []
    assert said in one.reader.why
    assert len(ends(one.tell(*steps(2, 5)))) == 5  # and nothing else has changed


@given(st.integers(0, 400))
def test_a_message_that_is_cut_anywhere_is_refused(at):
    raw = encode(prefill(1, 2, 500, num_prefill_requests=3, sum_prefill_tokens=900))
    one = Reading()
    assert one.tell(raw[: min(at, len(raw) - 1)]) == []
    assert one.reader.torn == 1


@pytest.mark.parametrize(
    "raw", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff" * 9000, b"", b"\xc1"]
)
def test_lengths_that_promise_gigabytes_are_refused(raw):
    one = Reading()
    assert one.tell(raw) == []
    assert "no msgpack" in one.reader.why


def test_a_step_without_a_request_is_no_label():
    """A data-parallel rank with nothing to do takes part in the steps of the others."""
    one = Reading()
    made = one.tell(*steps(0, 3), message(3, 0.02), message(4, 0.02))
    assert len(ends(made)) == 3
    assert [r.kind for r in made[-2:]] == [Kind.IDLE, Kind.IDLE]
    assert read(message(3, 0.02)).is_heartbeat


def test_heartbeats_alone_are_an_idle_engine_for_ever():
    one = Reading()
    made = one.tell(*(message(i) for i in range(500)), every_s=1.0)
    assert {r.kind for r in made} == {Kind.IDLE}
    assert (one.reader.lost, one.reader.torn) == (0, 0)


def test_a_flood_of_different_nonsense_is_counted_and_logged_once_in_ten_seconds():
    one = Reading()
    with structlog.testing.capture_logs() as logs:
        one.tell(*(decode(i, 4, 100) | {"wall_time": -1.0 - i} for i in range(3000)))
        odd = decode(5000, 4, 100)
        del odd["queued_requests"]
        one.tell(*(m for _ in range(500) for m in (odd, decode(1, -1, 1))))
    assert one.reader.torn >= 3500
    assert len(logs) <= 1 + (3000 + 1000) * 0.01 / forward_pass.QUIET_S + 1


def test_one_rank_of_two_that_falls_silent_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(forward_pass, "SILENT_S", 1.0)
    clock = Clock()
    clock.at_s = 100.0
    sources = ForwardPassSources(
        [f"ipc://{tmp_path}/a", f"ipc://{tmp_path}/b"], folder=tmp_path, instance="i",
        role="decode", max_batch_tokens=4096, time=clock,
    )  # fmt: skip
    try:
        for receiver in sources._receivers.values():
            receiver._keep(encode(message(0)))
        clock.at_s = 100.9
        assert sources.problem() == ""
        clock.at_s = 101.5
        next(iter(sources._receivers.values()))._keep(encode(message(1)))
        assert "nothing was heard of" in sources.problem()
        assert f"{tmp_path}/b" in sources.problem()
    finally:
        sources.close()


@pytest.mark.parametrize("counted", [True, False])
def test_a_burst_of_a_hundred_thousand_is_bounded_and_what_was_dropped_is_counted_once(
    tmp_path, monkeypatch, counted
):
    kept, clock = 256, Clock()
    monkeypatch.setattr(forward_pass_receiver, "MOST_KEPT", kept)
    sources = ForwardPassSources(
        [f"ipc://{tmp_path}/a"], folder=tmp_path, instance="i", role="decode",
        max_batch_tokens=4096, time=clock,
    )  # fmt: skip
    try:
        ((path, receiver),) = sources._receivers.items()
        told = decode(0, 4, 100)
        receiver._keep(encode(told))
        reader = sources.open(path)
        assert len(ends(reader.drain())) == 1
        for _ in range(100_000 - kept):
            clock.at_s += 0.001
            receiver._keep(b"what is dropped is not read")
        for number in range(100_001 - kept, 100_001):
            clock.at_s += 0.001
            one = decode(number, 4, 100 + 4 * number)
            if not counted:
                del one["counter_id"]
            receiver._keep(encode(one))
        assert len(receiver) == kept
        made = ends(reader.drain())
        assert len(made) == kept
        assert reader.lost == 100_000 - kept
        assert reader.torn == 0
        assert made[-1].load.decode_kv_tokens == 400_100
        assert not reader.replaced()
    finally:
        sources.close()
