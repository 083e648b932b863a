"""Iterations that are timed by events of the device, under overlap."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_scheduler import Bench, ForwardMode, batch, decode_batch, request

from voltana_ring.hooks.guard import METER
from voltana_ring.layout import Change, Kind
from voltana_sglang.hooks.around import around_process_batch_result, around_run_batch
from voltana_sglang.hooks.device_times import device_times


class Device:
    """A GPU with streams and events in the time of a bench; events tell milliseconds."""

    def __init__(self, clock):
        self.clock, self.busy_until_s = clock, {}
        device = self

        class Event:
            def __init__(self, *, enable_timing):
                assert enable_timing  # others refuse to tell how long it was

            def record(self, stream):
                self.at_s = max(device.clock.now_s, device.busy_until_s.get(stream, 0.0))

            def query(self):
                return device.clock.now_s >= self.at_s

            def synchronize(self):
                device.clock.now_s = max(device.clock.now_s, self.at_s)

            def elapsed_time(self, later):
                return 1e3 * (later.at_s - self.at_s)

        self.Event, self.Stream = Event, object


@pytest.fixture
def overlapped(tmp_path):
    bench = Bench(tmp_path)
    device = Device(bench.clock)
    bench.scheduler.device_module, bench.scheduler.forward_stream = device, object()
    bench.scheduler.enable_overlap = True
    bench.meter._device = device_times(bench.scheduler, bench.clock)
    yield bench, device
    bench.meter.close()


def hand_over(bench, device, fake, *, launch_s, compute_s):
    """Launch a batch, which keeps the host for so long and the device until after that."""
    stream = bench.scheduler.forward_stream
    launched = bench.meter.launch(fake)
    bench.clock.now_s += launch_s
    device.busy_until_s[stream] = (
        max(bench.clock.now_s, device.busy_until_s.get(stream, 0.0)) + compute_s
    )
    launched = bench.meter.returned(launched)
    return launched, SimpleNamespace(copy_done=launched.end)


def test_a_launch_that_takes_long_is_not_charged_to_the_iteration_before(overlapped):
    """As seen on an H100: 25 ms to launch a prefill, while a decode of 7 ms has long ended."""
    bench, device = overlapped
    bench.clock.now_s = 1.0
    decode, prefill = (
        decode_batch([request()], [5]),
        batch(ForwardMode.EXTEND, [request()], new=[9], old=[0]),
    )
    first, result = hand_over(bench, device, decode, launch_s=0.0, compute_s=0.007)
    second, later = hand_over(bench, device, prefill, launch_s=0.025, compute_s=0.003)
    bench.meter.finish(decode, result, first)
    assert bench.clock.now_s == pytest.approx(1.025)
    bench.meter.finish(prefill, later, second)
    finished = [r for r in bench.drain() if r.kind is Kind.FINISHED]
    assert [r.latency_s for r in finished] == pytest.approx([0.007, 0.021])
    assert [r.ready_s for r in finished] == pytest.approx([1.007, 1.028])
    assert [r.at_s for r in finished] == pytest.approx([1.025, 1.028])  # when the host had them


def test_what_the_host_waits_for_is_timed_by_the_host(overlapped):
    bench, device = overlapped
    bench.clock.now_s = 1.0
    fakes = [decode_batch([request()], [length]) for length in (5, 6)]
    one, result = hand_over(bench, device, fakes[0], launch_s=0.001, compute_s=0.010)
    two, later = hand_over(bench, device, fakes[1], launch_s=0.001, compute_s=0.010)
    bench.meter.finish(fakes[0], result, one)
    bench.meter.finish(fakes[1], later, two)
    finished = [r for r in bench.drain() if r.kind is Kind.FINISHED]
    assert [r.latency_s for r in finished] == pytest.approx([0.011, 0.010])


@pytest.mark.parametrize(
    "lacks", [{"enable_overlap": False}, {"forward_stream": None}, {"device_module": object()}]
)
def test_without_overlap_or_events_there_is_nothing_to_mark(overlapped, lacks):
    bench, _ = overlapped
    for name, value in lacks.items():
        setattr(bench.scheduler, name, value)
    assert device_times(bench.scheduler, bench.clock) is None


@pytest.mark.parametrize("fails", ["Event", "record", "query", "elapsed_time", "synchronize"])
def test_events_that_fail_leave_the_hosts_clock(overlapped, fails, caplog):
    bench, device = overlapped

    def broken(*_, **__):
        raise RuntimeError("CUDA error")

    setattr(*((device, "Event") if fails == "Event" else (device.Event, fails)), broken)
    setattr(bench.scheduler, METER, bench.meter)
    result, finished = SimpleNamespace(copy_done=None), []
    for number in range(20):
        fake = decode_batch([request()], [5])
        bench.clock.now_s = float(number)
        assert around_run_batch(lambda *_: result, bench.scheduler, fake) is result
        bench.clock.now_s += 0.02
        around_process_batch_result(lambda *_: None, bench.scheduler, fake, result)
        finished += [r.latency_s for r in bench.drain() if r.kind is Kind.FINISHED]
    assert finished == pytest.approx([0.02] * 20)
    assert bench.meter.errors == 0
    assert caplog.text.count("timed by the host alone") <= 1


def test_a_first_token_is_there_when_the_host_has_looked_at_it(overlapped):
    """The device was done long before: no client had anything from that."""
    bench, device = overlapped
    bench.clock.now_s = 1.0
    prompt = batch(ForwardMode.EXTEND, [request(arrived_s=1.0)], new=[9], old=[0])
    launched, result = hand_over(bench, device, prompt, launch_s=0.0, compute_s=0.010)
    bench.clock.now_s = 3.0  # the host stands still
    bench.meter.finish(prompt, result, launched)
    (finished,) = (r for r in bench.drain() if r.kind is Kind.FINISHED)
    assert finished.latency_s == pytest.approx(0.010)
    assert [at_s for _, at_s, what, _ in bench.changes if what == Change.FIRST] == [3.0]
