"""Checks that a controller decides whatever it is shown."""

from __future__ import annotations

import math

from voltana.testing import samples
from voltana.testing.controller_subject import ControllerSubject, expect_valid, experienced
from voltana.values import Queue


def decides_on_every_phase(subject: ControllerSubject) -> None:
    """decide() returns a Decision, fresh or taught, for prefill, decode and mixed batches."""
    for controller in (subject.make(), experienced(subject)):
        expect_valid(controller, [samples.observation(load) for load in samples.LOADS.values()])


def decides_when_idle(subject: ControllerSubject) -> None:
    """An empty load, before and after work, yields a decision."""
    idle = [samples.observation(samples.IDLE, now_s) for now_s in (50.0, 50.2, 58.0)]
    expect_valid(subject.make(), idle)
    expect_valid(experienced(subject), idle)


def decides_on_a_huge_queue(subject: ControllerSubject) -> None:
    """A queue of a million requests with full deadline buckets yields a decision."""
    queue = samples.deadlines(10.0, 1_000_000, 0.01, 0.001)
    loads = samples.LOADS.values()
    expect_valid(subject.make(), [samples.observation(load, queue=queue) for load in loads])
    expect_valid(experienced(subject), [samples.observation(ld, queue=queue) for ld in loads])


def decides_without_sensors(subject: ControllerSubject) -> None:
    """Unknown power, clock, target and last latency (nan) and a stale sample yield a decision."""
    blind = dict.fromkeys(("clock_mhz", "target_mhz", "power_w", "last_latency_s"), math.nan)
    observations = [
        samples.observation(load, **(blind if unknown is None else {unknown: math.nan}))
        for load in (*samples.LOADS.values(), samples.IDLE)
        for unknown in (None, *blind)
    ]
    observations.append(samples.observation(samples.LOADS["a decode batch"], sampled_at_s=-100.0))
    expect_valid(subject.make(), observations)
    expect_valid(experienced(subject), observations)


def decides_when_the_budget_is_spent(subject: ControllerSubject) -> None:
    """A request that waited past its threshold, and deadlines in the past, yield a decision."""
    late = samples.deadlines(10.0, 8, -30.0, 0.5)
    queues = (Queue(requests=3, tokens=900, oldest_wait_s=1e4), late)
    loads = [samples.LOADS["a short prompt"], samples.LOADS["a mixed batch"]]
    observations = [samples.observation(ld, queue=queue) for ld in loads for queue in queues]
    expect_valid(subject.make(), observations)
    expect_valid(experienced(subject), observations)


def decides_within_any_bounds(subject: ControllerSubject) -> None:
    """Caps, floors, empty and contradictory ranges yield a decision."""
    observations = [
        samples.observation(load, bounds=bounds)
        for load in (*samples.LOADS.values(), samples.IDLE)
        for bounds in samples.bounds_to_try()
    ]
    expect_valid(subject.make(), observations)
    expect_valid(experienced(subject), observations)


def decides_twice_at_one_time(subject: ControllerSubject) -> None:
    """Two observations may carry the same time, the first may carry zero."""
    load = samples.LOADS["a decode batch"]
    times_s = (0.0, 0.0, 1.0, 1.0, 1.0, 1e6, 1e6)
    expect_valid(subject.make(), [samples.observation(load, now_s) for now_s in times_s])
