"""A host without a free core: who waits for one is not taken to hang, nor spared for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from tests.attack.clock_honesty import HonestLoop
from voltana_actuatord.daemon import starving
from voltana_actuatord.daemon.starving import MOST_S, RUNNING_TICKS, Starving

STARVED_S = 0.7
"""Longer than the daemon waits for a sign of life, and shorter than a lease."""


@contextlib.contextmanager
def one_core_taken(pid):
    """A process is on a core that another never leaves, as the kernel's real-time class allows."""
    before, core = os.sched_getaffinity(pid), max(os.sched_getaffinity(0))
    hog = os.fork()
    if hog == 0:
        signal.alarm(10)
        os.sched_setaffinity(0, {core})
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
        while True:
            pass
    try:
        time.sleep(0.05)
        if os.sched_getscheduler(hog) != os.SCHED_FIFO:
            pytest.skip("needs the real-time class")
        os.sched_setaffinity(pid, {core})
        yield
    finally:
        os.kill(hog, signal.SIGKILL)
        os.waitpid(hog, 0)
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, before)


@pytest.mark.parametrize("victim", ["worker", "GPU's process"])
def test_who_has_no_core_for_a_moment_keeps_its_leases(victim, machine, daemon):
    with HonestLoop(daemon) as honest:
        worker, (holder,) = daemon.worker(), daemon.holders()
        for _ in range(2):
            with one_core_taken(worker if victim == "worker" else holder):
                time.sleep(STARVED_S)
            assert honest.times_s(0.5)
        assert honest.lost == 0, honest.why()
        assert (daemon.worker(), daemon.holders()) == (worker, [holder])


@pytest.fixture
def process(monkeypatch):
    """A process as /proc tells of it: its state, and for how long it has run."""
    told = {"state": "R", "ticks": 7}
    monkeypatch.setattr(starving, "_state", lambda _: (told["state"], told["ticks"]))
    return told


def test_who_is_not_runnable_or_hidden_is_not_spared(process):
    for state in ("S", "D", "T", "Z", ""):
        process["state"] = state
        assert not Starving().spares(1, 10.0, 10.5)


def test_who_runs_without_a_sign_of_life_is_not_spared(process):
    starved = Starving()
    assert starved.spares(1, 10.0, 10.5)
    process["ticks"] += RUNNING_TICKS
    assert not starved.spares(1, 10.0, 10.6)


def test_nobody_is_spared_for_ever(process):
    starved = Starving()
    assert starved.spares(1, 10.0, 10.5)
    assert starved.spares(1, 10.0, 10.4 + MOST_S)
    assert not starved.spares(1, 10.0, 10.6 + MOST_S)
    assert starved.spares(1, 12.0, 12.5)  # it was heard of meanwhile
    assert starved.spares(2, 10.0, 12.5)  # and this is another
