"""What holds attacks to the promise sees a stall that is planted, of whatever kind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from tests.attack.beside import stands_beside
from tests.attack.clock_honesty import Attacker, HonestLoop, assert_stands
from tests.attack.own_time import Pairs
from tests.attack.router_stage import Stage, run

STALL_S = 0.15
"""Beyond twice the 99th percentile of a machine with far more work than cores, where 20 ms were not
told apart; below what has a worker or a GPU's process replaced."""


@pytest.mark.parametrize("kind", ["stopped", "computes"])
@pytest.mark.parametrize("crowded", [False, True])
def test_a_router_that_stalls_is_found_out(kind: str, crowded: bool) -> None:
    """It stands still, or computes for somebody else; in a crowd as well."""

    async def attack(stage: Stage) -> None:
        async def stall() -> None:
            if kind == "computes":
                os.kill(stage.pid, signal.SIGUSR1)
                await asyncio.sleep(STALL_S)
                return
            os.kill(stage.pid, signal.SIGSTOP)
            await asyncio.sleep(STALL_S)
            os.kill(stage.pid, signal.SIGCONT)
            await asyncio.sleep(0.01)

        async def honest() -> None:
            await asyncio.sleep(0.03)

        with pytest.raises(AssertionError, match=r"times|kept the router|was lost"):
            await stage.honest_beside(stall, kind, than=honest if crowded else None)

    run(attack)


def test_a_loop_that_computes_in_one_go_is_found_out() -> None:
    async def ask() -> bool:
        await asyncio.sleep(0.001)
        return True

    async def attack() -> None:
        ends_s = time.thread_time() + 0.15
        while time.thread_time() < ends_s:
            pass
        await asyncio.sleep(0.05)

    with pytest.raises(AssertionError, match="computed for"):
        asyncio.run(stands_beside(ask, attack))


@pytest.mark.parametrize("which", ["worker", "holder"])
def test_a_daemon_that_stalls_is_found_out(which, machine, daemon) -> None:  # type: ignore[no-untyped-def]
    """A process of it stands still, for too short a time for anybody to replace it."""
    before = set(daemon.holders())
    with HonestLoop(daemon) as honest:
        (holder,) = set(daemon.holders()) - before
        pid = daemon.worker() if which == "worker" else holder

        def stall() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(STALL_S)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)

        with pytest.raises(AssertionError):  # late, or lost
            assert_stands(honest, Attacker(stall))
        with contextlib.suppress(ProcessLookupError):  # the daemon may have replaced it
            os.kill(pid, signal.SIGCONT)


def test_time_without_a_core_is_no_stall_of_a_router() -> None:
    """Others of this machine compute on every core, beside honest use alone."""
    pids = []
    for _ in range(2 * (os.cpu_count() or 1)):
        pid = os.fork()
        if pid == 0:
            while os.getppid() != 1:
                sum(range(1000))
            os._exit(0)
        pids.append(pid)
    try:

        async def attack(stage: Stage) -> None:
            await stage.honest_beside(lambda: asyncio.sleep(0.05))

        run(attack)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_lost_turns_are_not_kept() -> None:
    assert not Pairs(quiet_s=[0.001] * 100, attacked_s=[0.001] * 100, turns=1).kept(0.0)
    assert Pairs(quiet_s=[0.001] * 100, attacked_s=[0.002] * 100, turns=2).kept(0.0)
    assert not Pairs(quiet_s=[0.001] * 100, attacked_s=[0.003] * 100, turns=2).kept(0.0)
