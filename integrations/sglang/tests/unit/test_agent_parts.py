from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ActuatorError
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.profile import Stack, load_profile
from voltana.serving.agent.accounting import Account, ErrorTracker
from voltana.serving.agent.persistence import restore_predictor, save_predictor
from voltana.serving.agent.queueing import queue_of
from voltana.serving.agent.sensing import ClockHistory, EchoSensor, SampledSensor
from voltana.serving.agent.shared_clock import SharedClock
from voltana.serving.agent.switchable import Switchable
from voltana.serving.ring_reader import Record, Waiting
from voltana.timebase import ManualTime
from voltana.values import (
    ActuatorStatus,
    Command,
    Domain,
    Health,
    Load,
    Outcome,
    Phase,
    Reading,
    attended_pairs,
)
from voltana_ring.layout import Flag, Kind

DOMAIN = Domain(name="d")
STACK = Stack(hardware="h", model="m", engine="sglang", engine_version="0.5.23")


class Recorder:
    def __init__(self):
        self.commands = []
        self.closed = False

    def table(self):
        return (600.0, 900.0, 1410.0)

    def apply(self, command):
        assert not self.closed
        self.commands.append(command)

    def status(self):
        return ActuatorStatus(clock_mhz=900.0, target_mhz=math.nan)

    def close(self):
        self.closed = True


def command(clock_mhz, sequence=0, lease_s=2.0):
    return Command(domain=DOMAIN, clock_mhz=clock_mhz, sequence=sequence, lease_s=lease_s)


def test_the_most_demanding_loop_wins_while_its_lease_holds():
    time, recorder = ManualTime(), Recorder()
    shared = SharedClock(recorder, DOMAIN, time)
    slow, fast = shared.member("a"), shared.member("b")
    slow.apply(command(600.0))
    fast.apply(command(1410.0))
    slow.apply(command(900.0))
    time.advance(1.0)
    slow.apply(command(900.0))
    time.advance(1.5)  # the fast one fell silent
    slow.apply(command(900.0))
    assert [c.clock_mhz for c in recorder.commands] == [600.0, 1410.0, 1410.0, 1410.0, 900.0]
    assert [c.sequence for c in recorder.commands] == [0, 1, 2, 3, 4]
    fast.apply(command(1410.0))
    fast.close()
    slow.apply(command(600.0))
    assert recorder.commands[-1].clock_mhz == 600.0
    assert not recorder.closed


def test_a_dry_run_acts_on_nothing_and_can_be_ended_and_begun_again():
    opened = []

    def open_live():
        opened.append(Recorder())
        return opened[-1]

    actuator = Switchable(open_live, (600.0, 1410.0), dry_run=True)
    actuator.apply(command(600.0))
    assert (opened, actuator.status().target_mhz) == ([], 600.0)
    actuator.set_dry_run(dry_run=False)
    actuator.apply(command(900.0))
    assert [c.clock_mhz for c in opened[0].commands] == [900.0]
    assert actuator.table() == (600.0, 900.0, 1410.0)
    actuator.set_dry_run(dry_run=True)
    assert opened[0].closed  # the default clocks are back
    actuator.apply(command(600.0))
    assert len(opened[0].commands) == 1
    actuator.close()
    actuator.close()
    assert actuator.status().health is Health.LOST
    with pytest.raises(ActuatorError, match="closed"):
        actuator.apply(command(600.0))


def test_a_device_that_cannot_be_opened_is_left_alone():
    def fail():
        raise ActuatorError("no daemon")

    actuator = Switchable(fail, (600.0,), dry_run=True)
    with pytest.raises(ActuatorError, match="no daemon"):
        actuator.set_dry_run(dry_run=False)
    assert actuator.dry_run


def test_the_mean_clock_of_an_iteration_holds_each_sample_until_the_next():
    history = ClockHistory()
    assert math.isnan(history.mean_mhz(0.0, 1.0))
    for at_s, clock_mhz in ((1.0, 600.0), (2.0, 1200.0), (2.5, 1200.0), (3.0, math.nan)):
        history.add(at_s, clock_mhz)
    assert history.mean_mhz(1.2, 1.8) == pytest.approx(600.0)
    assert history.mean_mhz(1.5, 2.5) == pytest.approx(900.0)
    assert history.mean_mhz(5.0, 6.0) == pytest.approx(1200.0)
    assert history.mean_mhz(0.0, 2.0) == pytest.approx(600.0)
    assert history.mean_mhz(0.2, 0.8) == pytest.approx(600.0)  # the first that is known
    assert history.mean_mhz(2.0, 2.0) == pytest.approx(1200.0)


def test_without_a_device_the_clock_is_what_the_actuator_says():
    time = ManualTime(5.0)
    clocks = iter([math.nan, 900.0])
    sensor = EchoSensor(
        lambda: ActuatorStatus(clock_mhz=next(clocks), target_mhz=0.0), 1410.0, time
    )
    assert sensor.read().clock_mhz == 1410.0
    time.advance(1.0)
    reading = sensor.read()
    assert (reading.clock_mhz, reading.at_s) == (900.0, 6.0)
    assert math.isnan(reading.power_w)


def test_a_device_that_stops_answering_has_no_known_clock():
    class Fails:
        def __init__(self):
            self.reads = 0

        def read(self):
            self.reads += 1
            if self.reads > 2:
                raise ActuatorError("gone")
            return Reading(at_s=1.0, clock_mhz=900.0, power_w=1.0, energy_j=1.0)

    device = Fails()
    sensor = SampledSensor(device, ManualTime(), period_s=0.001)
    while device.reads < 5:
        pass
    assert math.isnan(sensor.read().clock_mhz)
    sensor.close()


def record(waiting, *, hidden_requests=0, hidden_tokens=0, oldest_s=math.nan, at_s=50.0):
    return Record(
        kind=Kind.LAUNCHED,
        iteration=1,
        at_s=at_s,
        load=Load.prefill([(5, 0)]),
        flags=Flag(0),
        waiting_requests=len(waiting) + hidden_requests,
        waiting_tokens=sum(w.new_tokens for w in waiting) + hidden_tokens,
        oldest_s=oldest_s,
        launch_s=at_s,
        ready_s=math.nan,
        latency_s=math.nan,
        waiting=tuple(waiting),
        rooms=(),
    )


def test_the_queue_has_a_bucket_for_each_batch_that_the_engine_will_form():
    waiting = [Waiting(10.0, 60, 0), Waiting(9.0, 30, 10), Waiting(11.0, 40, 0)]
    queue = queue_of(record(waiting, oldest_s=9.0), ttft_s=2.0, max_batch_tokens=100, now_s=12.0)
    assert (queue.requests, queue.tokens, queue.oldest_wait_s) == (3, 130, 3.0)
    first, second = queue.deadlines
    assert (first.deadline_s, first.cumulative_tokens, first.cumulative_batches) == (11.0, 90, 1)
    assert (second.deadline_s, second.cumulative_tokens, second.cumulative_batches) == (
        13.0,
        130,
        2,
    )
    pairs = [attended_pairs(60, 0) + attended_pairs(30, 10)]
    pairs.append(pairs[0] + attended_pairs(40, 0))
    assert [b.cumulative_attended_pairs for b in queue.deadlines] == pairs


def test_a_prompt_longer_than_a_batch_takes_several():
    queue = queue_of(record([Waiting(10.0, 250, 0)]), ttft_s=1.0, max_batch_tokens=100, now_s=10.0)
    assert [b.cumulative_batches for b in queue.deadlines] == [3]


def test_requests_that_are_not_listed_count_at_the_end():
    queue = queue_of(
        record([Waiting(10.0, 50, 0)], hidden_requests=9, hidden_tokens=450),
        ttft_s=1.0, max_batch_tokens=100, now_s=10.0,
    )  # fmt: skip
    last = queue.deadlines[-1]
    assert (last.cumulative_tokens, last.cumulative_batches) == (500, 6)
    assert last.cumulative_attended_pairs == pytest.approx(10 * attended_pairs(50))


@given(
    sizes=st.lists(st.integers(1, 5000), max_size=40),
    limit=st.integers(1, 8192),
    hidden=st.integers(0, 10**6),
)
def test_buckets_are_few_cumulative_and_hold_everything(sizes, limit, hidden):
    waiting = [Waiting(float(index + 1), size, 0) for index, size in enumerate(sizes)]
    queue = queue_of(
        record(waiting, hidden_tokens=hidden), ttft_s=1.0, max_batch_tokens=limit, now_s=99.0
    )
    buckets = queue.deadlines
    assert len(buckets) <= 32
    assert bool(buckets) == bool(sizes)
    for field in ("cumulative_tokens", "cumulative_attended_pairs", "cumulative_batches"):
        values = [getattr(bucket, field) for bucket in buckets]
        assert values == sorted(values)
    if buckets:
        assert buckets[-1].cumulative_tokens == sum(sizes) + hidden
        assert buckets[-1].cumulative_batches >= (sum(sizes) + hidden) / limit
        assert min(bucket.deadline_s for bucket in buckets) == 2.0


def test_errors_are_compared_with_those_of_the_mean():
    tracker = ErrorTracker()
    for latency_s, predicted_s in ((1.0, 9.0), (3.0, 2.5), (2.0, math.inf), (4.0, 4.0)):
        tracker.add(latency_s, predicted_s)
    figures = tracker.figures()
    assert figures["labels"] == 4
    assert figures["mae_ms"] == pytest.approx(250.0)  # of 3.0 and 4.0; unknown is not scored
    assert figures["mean_predictor_mae_ms"] == pytest.approx((2.0 + 2.0) / 2 * 1e3)


def test_attainment_is_weighted_by_tokens():
    account = Account()
    assert math.isnan(account.attainment())
    account.finished(Load.decode(9, 10), 0.01, 0.01, kept=True)
    account.finished(Load.decode(1, 10), 0.09, 0.01, kept=False)
    account.finished(Load(), 5.0, 0.0, kept=False)
    assert account.attainment() == pytest.approx(0.9)
    assert account.iterations[Phase.DECODE] == 2
    assert account.latency_s(100) == 0.09


def taught():
    predictor = EcoPred()
    rng = np.random.default_rng(1)
    for _ in range(300):
        requests, kv = int(rng.integers(1, 60)), int(rng.integers(100, 20_000))
        load = Load.decode(requests, kv)
        latency_s = 0.004 + 2e-5 * requests + 1e-7 * kv
        predictor.learn(Outcome(load=load, clock_mhz=1410.0, latency_s=latency_s, ended_at_s=0.0))
    return predictor


def test_what_was_learned_survives_a_restart(tmp_path):
    predictor, path = taught(), tmp_path / "deep" / "d.predictor.json"
    assert save_predictor(predictor, path, STACK)
    assert load_profile(path).stack == STACK
    restored = restore_predictor(None, path, None, STACK)
    load, clocks = Load.decode(30, 9000), np.array([1410.0])
    assert restored.forecast(load, clocks).mean_s == pytest.approx(
        predictor.forecast(load, clocks).mean_s, rel=0.02
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_learned_is_not_saved_and_a_damaged_file_is_left_aside(tmp_path):
    path = tmp_path / "d.predictor.json"
    assert not save_predictor(EcoPred(), path, STACK)
    assert restore_predictor(None, path, None, STACK) is None
    path.write_text("{")
    assert restore_predictor(None, path, None, STACK) is None


def test_a_users_predictor_is_saved_and_restored_by_its_own_methods(tmp_path):
    class Own:
        def __init__(self, values):
            self.values = values

        def to_dict(self):
            return self.values

        def restore(self, values):
            if "bad" in values:
                raise ValueError("bad")
            self.values = values

    path = tmp_path / "own.json"
    assert save_predictor(Own({"a": 1}), path, STACK)
    assert json.loads(path.read_text()) == {"a": 1}
    assert restore_predictor(Own({}), path, None, STACK).values == {"a": 1}
    path.write_text('{"bad": 1}')
    assert restore_predictor(Own({"new": 2}), path, None, STACK).values == {"new": 2}
    assert not save_predictor(object(), path, STACK)
