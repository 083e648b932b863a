"""What only a live engine does to the plant's instances: revised ends, and requests given up."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.plant.decode import DecodeInstance
from voltana.plant.events import EventQueue
from voltana.plant.job import Job
from voltana.plant.prefill import PrefillInstance
from voltana.rehearsal.live_events import LATE_S, LiveEvents
from voltana.rehearsal.measured import Lateness
from voltana.rehearsal.rehearse import TooSlowError, refuse_slow
from voltana.serving.event_loop import PacedLoop


class Board:
    clock_mhz = 1410.0


class Runner:
    """Iterations of 10 ms."""

    def __init__(self):
        self.board = Board()
        self.begun, self.ended = [], []

    def begin(self, load, queue, now_s, slack_s=math.nan):
        self.begun.append(now_s)
        return now_s + 0.01

    def finish(self, now_s):
        self.ended.append(now_s)

    def idle(self, now_s):
        pass

    def demand_per_s(self):
        return None


def decode(events, completed):
    return DecodeInstance(
        Runner(),
        events,
        capacity_tokens=2000,
        reserved_tokens=20,
        max_requests=8,
        slack=None,
        step_s=0.0,
        token_s=0.0,
        transfer_s=lambda tokens: tokens * 1e-5,
        complete=lambda job, now_s: completed.append(job.index),
        deliver=lambda job, load, now_s: None,
    )


def prefill(events, done):
    return PrefillInstance(
        Runner(),
        events,
        max_tokens=512,
        ttft_s=0.6,
        request_s=0.0,
        take_up=lambda job: None,
        hand_on=lambda job, now_s: done.append(job.index),
    )


def run(events, until_s=math.inf):
    while events.next_s() <= until_s < math.inf or events.next_s() < until_s == math.inf:
        events.step()
    if until_s < math.inf:
        events.advance_to(until_s)


JOBS = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 40), st.floats(0, 0.2)), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(jobs=JOBS, drops=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 11)), max_size=12))
def test_every_request_ends_once_whenever_it_is_given_up(jobs, drops):
    events, completed = EventQueue(), []
    instance = decode(events, completed)
    made = [Job(i, at_s, prompt, output) for i, (prompt, output, at_s) in enumerate(jobs)]
    for job in made:
        events.schedule(job.arrival_s, lambda now_s, job=job: instance.arrive(job, now_s))
    for at_s, index in sorted(drops):
        run(events, at_s)
        job = made[index % len(made)]
        if job.arrival_s < at_s and job.index not in completed:
            instance.drop(job, at_s)
    run(events)
    assert sorted(completed) == list(range(len(made)))
    state = instance.state()
    assert (state.running_requests, state.kv_tokens, state.queued_requests) == (0, 0, 0)
    assert not instance.running
    assert not instance.blocked


def test_a_request_that_is_given_up_ends_with_the_iteration_under_way():
    events, completed = EventQueue(), []
    instance = decode(events, completed)
    job = Job(0, 0.0, 100, 1000)
    instance.arrive(job, 0.0)
    run(events, 0.0555)
    before = instance.produced(job)
    instance.drop(job, 0.0555)
    run(events)
    assert job.output_tokens == before + 1
    assert events.now_s() - 0.0555 < 0.01


def test_a_waiting_prompt_that_is_given_up_is_not_computed():
    events, done = EventQueue(), []
    instance = prefill(events, done)
    jobs = [Job(i, 0.0, 400, 1) for i in range(3)]
    for job in jobs:
        instance.enqueue(job, 0.0)
    assert instance.drop(jobs[2])
    assert not instance.drop(jobs[2])
    run(events)
    assert done == [0, 1]
    assert instance.pending_tokens == 0


@pytest.mark.parametrize("make", [prefill, decode])
def test_a_revised_end_holds_and_earlier_ones_do_not(make):
    events, ended = EventQueue(), []
    instance = make(events, ended)
    job = Job(0, 0.0, 100, 2)
    (instance.enqueue if make is prefill else instance.arrive)(job, 0.0)
    run(events, 0.005)
    began_s = instance.runner.begun[-1]
    instance.revise(began_s + 0.03)
    instance.revise(began_s + 0.02)
    run(events)
    assert instance.runner.ended == [pytest.approx(began_s + 0.02)]
    assert ended == [0]


def test_events_happen_at_their_time_and_lateness_is_told():
    seen = []

    async def live():
        loop = asyncio.get_running_loop()
        events = LiveEvents(loop, 2.0)
        start_s = events.catch_up()
        events.schedule(start_s + 0.04, lambda at_s: seen.append((at_s - start_s, loop.time())))
        events.schedule(start_s + 0.02, lambda at_s: events.schedule(at_s + 0.01, seen.append))
        await asyncio.sleep(0.1)
        assert events.catch_up() >= start_s + 0.1
        late = events.happened, sum(events.late)
        events.schedule(events.now_s() - 2 * 3 * LATE_S, seen.append)
        events.catch_up()
        return start_s, late, events

    with asyncio.Runner(loop_factory=lambda: PacedLoop(2.0)) as runner:
        start_s, late, events = runner.run(live())
    assert seen[0] == pytest.approx(start_s + 0.03)
    assert seen[1][0] == pytest.approx(0.04)
    assert seen[1][1] >= start_s + 0.04
    assert events.happened == late[0] + 1 == 4
    assert sum(events.late) == late[1] + 1


def test_a_slow_machine_is_told_a_factor_and_no_figures():
    refuse_slow(Lateness(happened=1000, late=(10, 0, 0, 0, 0, 0, 0, 0), latest_s=0.006), 0.25)
    late = Lateness(happened=1000, late=(20, 8, 1, 0, 0, 0, 0, 0), latest_s=0.03)
    with pytest.raises(TooSlowError, match=r"2\.9% of 1000 events .* Try --factor 0\.125\."):
        refuse_slow(late, 0.25)
    hopeless = Lateness(happened=10, late=(0, 0, 0, 0, 0, 0, 0, 10), latest_s=9.0)
    with pytest.raises(TooSlowError, match=r"Try --factor 0\.01\."):
        refuse_slow(hopeless, 0.1)
