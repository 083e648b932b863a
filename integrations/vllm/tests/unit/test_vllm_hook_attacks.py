"""Schedulers that lack fields, raise, or change under the hooks: counts stay true."""

from __future__ import annotations

import random

import pytest
from fake_vllm import Request, Scheduler
from hooked import Bench, Hooked

from voltana_ring.hooks.guard import METER
from voltana_ring.layout import Change, Kind
from voltana_vllm.hooks.around import around_schedule, around_update_from_output
from voltana_vllm.hooks.queue_view import QueueReader


def feed(bench, count=12, seed=0):
    rng = random.Random(seed)
    for i in range(count):
        request = Request(f"r{i}", rng.randint(5, 150), rng.randint(3, 30), bench.wall_s)
        bench.scheduler.add_request(request)


class Breaking:
    """Raises once in a while, at one place of the meter; notes which batches were missed."""

    def __init__(self, monkeypatch, meter, when, at):
        self.number, self.at, self.missed = 0, at, set()
        self.failed, self.current = 0, None
        whole, read, put = meter._measure, QueueReader.read, meter._ring.put

        def measure(output):
            self.number += 1
            self.current = id(output)
            if when == "before" and self.number in at:
                self.fail()
            whole(output)
            self.current = None

        def half_read(queue, **options):
            found = read(queue, **options)
            if when == "half-way" and self.is_next():  # rows were made of requests by then
                self.fail()
            return found

        def half_put(*told):
            if when == "after" and self.is_next():
                self.fail()
            put(*told)

        meter._measure, meter._ring.put = measure, half_put
        monkeypatch.setattr(QueueReader, "read", half_read)

    def is_next(self):
        """Whether it is the first from one of the numbers on."""
        return self.current is not None and any(
            self.failed < number <= self.number for number in self.at
        )

    def fail(self):
        self.failed = self.number
        self.missed.add(self.current)
        raise KeyError("injected")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("when", ["before", "half-way", "after"])
@pytest.mark.parametrize("seed", range(6))
def test_one_error_leaves_no_wrong_counts_behind(tmp_path, monkeypatch, asynchronous, when, seed):
    bench = Bench(tmp_path, asynchronous=asynchronous, budget=64, running=6, waits=seed % 2 == 0)
    feed(bench, seed=seed)
    breaking = Breaking(monkeypatch, bench.meter, when, {random.Random(seed).randint(2, 15)})
    bench.run()
    assert getattr(bench.scheduler, METER) is bench.meter
    assert bench.meter.errors >= 1
    measured = iter(sorted(bench.of(Kind.LAUNCHED), key=lambda record: record.iteration))
    compared = 0
    for output in bench.core.outputs:
        if not output.total_num_scheduled_tokens or id(output) in breaking.missed:
            continue
        truth, load = bench.scheduler.truth[id(output)], next(measured).load
        assert load.prefill_tokens == sum(new for new, _ in truth.prefill.values())
        assert load.decode_requests == len(truth.decode)
        assert load.decode_kv_tokens == sum(truth.decode.values())
        compared += 1
    assert compared > 20
    bench.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_ended_in_a_batch_that_was_missed_is_told_with_the_next(tmp_path, asynchronous):
    bench = Bench(tmp_path, asynchronous=asynchronous)
    measure, missed = bench.meter._measure, []

    def missing(output):
        if not missed and "b" in output.finished_req_ids:
            missed.append(output)
            raise KeyError("injected")
        measure(output)

    bench.meter._measure = missing
    for name, tokens in (("a", 2), ("b", 9), ("c", 30)):
        bench.scheduler.add_request(Request(name, 20, tokens, bench.wall_s))
    bench.run()
    assert bench.meter.errors == 1
    ends = {Change.ENDED, Change.ABORTED, Change.GONE}
    assert sum(change.what in ends for change in bench.changes) == 3
    assert not bench.meter._rows.known
    bench.close()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("held_back", [1, 9])
def test_an_engine_that_does_not_say_when_it_waits_is_measured_all_the_same(
    tmp_path, asynchronous, held_back
):
    """Or asks late, as vLLM does for grammars of drafts: a batch is told by its result at last."""
    bench = Bench(tmp_path, asynchronous=asynchronous, budget=64, running=6)
    bench.scheduler.get_grammar_bitmask = lambda _output: None
    asked = type(bench.scheduler).get_grammar_bitmask

    def ask(output):
        if bench.scheduler.steps < held_back:
            asked(bench.scheduler, output)

    bench.scheduler.get_grammar_bitmask = ask
    feed(bench)
    bench.run()
    assert bench.meter.errors == 0
    steps = [output for output in bench.core.outputs if output.total_num_scheduled_tokens]
    launched = bench.of(Kind.LAUNCHED)
    assert [record.iteration for record in launched] == list(range(1, len(steps) + 1))
    for record, output in zip(launched, steps, strict=True):
        truth = bench.scheduler.truth[id(output)]
        assert record.load.prefill_tokens == sum(new for new, _ in truth.prefill.values())
        assert record.load.decode_kv_tokens == sum(truth.decode.values())
    assert all(0 < record.latency_s < 0.02 for record in bench.of(Kind.FINISHED))
    bench.close()


LACKING = [
    (name, where)
    for where, names in {
        "output": (
            "finished_req_ids", "num_scheduled_tokens", "scheduled_cached_reqs",
            "scheduled_new_reqs", "scheduled_spec_decode_tokens", "total_num_scheduled_tokens",
        ),
        "scheduler": ("requests", "finished_req_ids", "waiting"),
    }.items()
    for name in names
]  # fmt: skip


@pytest.mark.parametrize(("name", "where"), LACKING)
@pytest.mark.parametrize("value", ["gone", None, 7, object()])
def test_a_field_that_goes_in_mid_run_ends_the_measuring_and_not_the_engine(
    tmp_path, name, where, value
):
    bench = Bench(tmp_path)
    feed(bench, 4)
    bench.run(3)

    class Seen:
        """What the meter is shown in place of the engine's own object."""

        def __init__(self, real):
            self._real = real

        def __getattr__(self, asked):
            if asked == name:
                if value == "gone":
                    raise AttributeError(asked)
                return value
            return getattr(self._real, asked)

    meter = bench.meter
    if where == "scheduler":
        meter._scheduler = meter._queue._scheduler = Seen(meter._scheduler)
    else:
        scheduled, updated, seen = meter.scheduled, meter.updated, {}
        meter.scheduled = lambda output: scheduled(seen.setdefault(id(output), Seen(output)))
        meter.updated = lambda output, at_s: updated(seen.get(id(output), output), at_s)
    feed_again = [Request(f"s{i}", 20, 20, bench.wall_s) for i in range(4)]
    for request in feed_again:
        bench.scheduler.add_request(request)
    bench.run()
    assert not bench.scheduler.requests
    assert all(request.num_output_tokens == 20 for request in feed_again)
    bench.reader.close()


class SchedulesItself(Hooked):
    """A scheduler of the user's own, whose method calls none of vLLM's."""

    def schedule(self, throttle_prefills=False):
        return Scheduler.schedule(self, throttle_prefills)


class UpdatesItself(Hooked):
    """Likewise."""

    def update_from_output(self, scheduler_output, model_runner_output):
        return Scheduler.update_from_output(self, scheduler_output, model_runner_output)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("own", [SchedulesItself, UpdatesItself])
def test_a_scheduler_that_is_seen_by_half_is_said_to_be_and_not_measured(
    tmp_path, monkeypatch, caplog, own, asynchronous
):
    """Launches without results would be decided on and never scored."""
    monkeypatch.setattr("hooked.Hooked", own)
    bench = Bench(tmp_path, asynchronous=asynchronous)
    bench.scheduler.add_request(Request("r", 20, 90, bench.wall_s))
    bench.run()
    assert not bench.scheduler.requests
    assert getattr(bench.scheduler, METER) is None
    assert "switched off after 5 errors" in caplog.text
    method = "schedule" if own is SchedulesItself else "update_from_output"
    assert f"RuntimeError: {own.__name__}.{method} must call vLLM's" in caplog.text
    assert not list(tmp_path.glob("*.ring"))
    bench.reader.close()


class Awkward:
    """A scheduler of the user's own whose attributes raise."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} here")


def test_a_scheduler_whose_attributes_raise_is_served_on():
    assert around_schedule(lambda _scheduler: "output")(Awkward()) == "output"
    assert around_update_from_output(lambda _s, _o: "done")(Awkward(), None) == "done"


def test_an_error_whose_text_cannot_be_written_is_survived(tmp_path):
    bench = Bench(tmp_path)
    feed(bench, 3)

    class UnspeakableError(Exception):
        def __str__(self):
            raise ValueError("even that")

    def fail(_output):
        raise UnspeakableError

    bench.meter.scheduled = fail
    bench.run()
    assert not bench.scheduler.requests
    assert getattr(bench.scheduler, METER) is None
    bench.reader.close()


@pytest.mark.parametrize("arrived", [float("nan"), float("inf"), -1e300, None, "soon"])
def test_an_arrival_that_is_no_time_ends_nothing(tmp_path, arrived):
    bench = Bench(tmp_path)
    feed(bench, 2)
    odd = Request("odd", 20, 5, arrived)
    bench.scheduler.add_request(odd)
    bench.run()
    assert odd.num_output_tokens == 5
    assert not bench.scheduler.requests
    bench.reader.close()
