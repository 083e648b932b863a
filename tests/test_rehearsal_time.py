"""One time source: what asks it is dilated; limits that stay on the wall are only lengthened."""

from __future__ import annotations

import asyncio
import time

import pytest

from voltana.errors import ConfigError
from voltana.serving.event_loop import PacedLoop, run_paced
from voltana_actuatord.timebase import (
    FACTOR_VARIABLE,
    MonotonicTime,
    lengthened_s,
    time_factor,
    wall_s,
)


def test_production_runs_at_the_walls_pace(monkeypatch):
    monkeypatch.delenv(FACTOR_VARIABLE, raising=False)
    assert time_factor() == 1.0
    before = time.monotonic()
    assert before <= MonotonicTime().now_s() <= time.monotonic()
    assert wall_s(2.0) == lengthened_s(2.0) == 2.0


@pytest.mark.parametrize(("factor", "lease_s"), [("0.25", 8.0), ("2", 2.0)])
def test_waits_are_dilated_and_leases_are_never_shorter(monkeypatch, factor, lease_s):
    monkeypatch.setenv(FACTOR_VARIABLE, factor)
    assert wall_s(2.0) == 2.0 / float(factor)
    assert lengthened_s(2.0) == lease_s
    before = time.monotonic()
    assert MonotonicTime().now_s() >= before * float(factor)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf", "5"])
def test_what_is_no_factor_is_refused(monkeypatch, text):
    monkeypatch.setenv(FACTOR_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"VOLTANA_TIME_FACTOR = .* must be 0\.01 to 4"):
        MonotonicTime()


def test_a_paced_loop_waits_and_times_out_at_its_pace():
    async def waits():
        loop = asyncio.get_running_loop()
        wall, own = time.monotonic(), loop.time()
        await asyncio.sleep(0.4)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await asyncio.Event().wait()
        return time.monotonic() - wall, loop.time() - own

    with asyncio.Runner(loop_factory=lambda: PacedLoop(4.0)) as runner:
        wall, own = runner.run(waits())
    assert own == pytest.approx(4.0 * wall, rel=0.01)
    assert own >= 0.8


def test_the_loop_of_production_is_what_it_was(monkeypatch):
    async def kind():
        return type(asyncio.get_running_loop())

    made = []

    def usual():
        made.append(asyncio.new_event_loop())
        return made[-1]

    monkeypatch.delenv(FACTOR_VARIABLE, raising=False)
    assert run_paced(kind(), usual) is type(made[0])
    monkeypatch.setenv(FACTOR_VARIABLE, "0.5")
    assert run_paced(kind(), usual) is PacedLoop
    assert len(made) == 1
