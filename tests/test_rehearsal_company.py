"""The processes of a rehearsal: none may end unseen, and another's port is not taken for ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

from voltana.errors import VoltanaError
from voltana.rehearsal.priority import going_first
from voltana.rehearsal.run import _beside


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
