"""The processes of a rehearsal: none may end unseen, and another's port is not taken for ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voltana.errors import VoltanaError
from voltana.rehearsal.measured import Lateness
from voltana.rehearsal.priority import going_first, keep_niceness
from voltana.rehearsal.rehearse import TooSlowError, refuse_slow
from voltana.rehearsal.run import _beside
from voltana.rehearsal.waiting import most_waited_s, waited_s


async def for_ever():
    while True:
        await asyncio.sleep(0.01)


async def soon(result):
    await asyncio.sleep(0.02)
    return result


async def broken(error):
    await asyncio.sleep(0.01)
    raise error


def test_jobs_are_waited_for_and_the_watch_ends_with_them():
    assert asyncio.run(_beside(for_ever(), soon(1), soon(2))) == [1, 2]


@pytest.mark.parametrize("place", ["watch", "job"])
def test_what_goes_wrong_in_watch_or_job_ends_everything_at_once(place):
    error, ended = VoltanaError("the launch has ended"), []

    async def job():
        try:
            await for_ever()
        finally:
            ended.append(True)

    watch, other = (broken(error), soon(1)) if place == "watch" else (for_ever(), broken(error))
    started_s = time.monotonic()
    with pytest.raises(VoltanaError, match="the launch has ended"):
        asyncio.run(_beside(watch, job(), other))
    assert ended == [True]
    assert time.monotonic() - started_s < 5.0


def test_going_first_ends_with_what_it_is_for():
    """Where it may not go first at all, nothing changes."""
    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    with going_first():
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert inside in {os.SCHED_RR, before[0]}
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(child.stdout) == os.SCHED_OTHER  # what is started meanwhile does not
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before


def test_a_process_with_a_session_of_its_own_counts_for_its_niceness():
    enabled = Path("/proc/sys/kernel/sched_autogroup_enabled")
    if not enabled.exists() or enabled.read_text().strip() != "1":
        pytest.skip("this kernel schedules no sessions as groups")
    sleep = [sys.executable, "-c", "import os, time; os.nice(3); time.sleep(60)"]
    process = subprocess.Popen(sleep, start_new_session=True)
    try:
        ends_s = time.monotonic() + 10.0
        while os.getpriority(os.PRIO_PROCESS, process.pid) < 3 and time.monotonic() < ends_s:
            time.sleep(0.01)
        keep_niceness(process.pid)
        niceness = os.getpriority(os.PRIO_PROCESS, process.pid)
        assert Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1] == str(niceness)
    finally:
        process.kill()
        process.wait()
    keep_niceness(process.pid)  # which is gone


def test_what_a_router_waited_for_a_processor_is_told_from_what_others_did(tmp_path):
    """Two busy loops that may use one processor wait for each other; the meter counts not."""
    log, other = tmp_path / "router.log", tmp_path / "meter.log"
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    started = []
    for path in (log, other):
        with path.open("wb") as file:
            started.append(subprocess.Popen([sys.executable, "-c", code], stderr=file))
    try:
        ends_s = time.monotonic() + 10.0
        while not (before := waited_s(tmp_path)) and time.monotonic() < ends_s:
            time.sleep(0.05)
        assert set(before) == {started[0].pid}
        time.sleep(1.0)
        waited = most_waited_s(before, waited_s(tmp_path))
        assert Path("/proc/self/schedstat").exists() is (waited > 0.05)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert most_waited_s({1: 0.0}, {2: 5.0}) == 0.0  # it was started again meanwhile


@pytest.mark.parametrize(("waited", "slow"), [(0.2, False), (0.3, True)])
def test_a_machine_on_which_production_waits_is_too_slow_at_half_the_work(waited, slow):
    lateness = Lateness(happened=1000, late=(0,) * 8, latest_s=0.0, waited_share=waited)
    assert lateness.too_slow is slow
    if slow:
        with pytest.raises(TooSlowError, match=r"waited 30% of the time .* Try --factor 0\.25"):
            refuse_slow(lateness, 0.5)
    else:
        refuse_slow(lateness, 0.5)
