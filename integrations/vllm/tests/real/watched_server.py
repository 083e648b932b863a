"""Starts a vLLM server whose hooks are watched, or made to fail, in its own engine core.

Processes that vLLM starts import this file anew, so that what it does is done there as well.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from pathlib import Path
from typing import Any

TIMES_VARIABLE = "VOLTANA_TEST_HOOK_TIMES"
"""A file for the thread CPU time that hooks took, in seconds: a double an iteration."""

HANDED_VARIABLE = "VOLTANA_TEST_HANDED"
"""A file for the time between a launch as the plugin stamps it and where vLLM begins to count, in
seconds: a double an iteration."""

TOGGLE_VARIABLE = "VOLTANA_TEST_TOGGLE"
"""A file for what iterations took with hooks and without, in turns: `hook_turns.ROW` of each."""

RAISE_VARIABLE = "VOLTANA_TEST_HOOK_RAISES"
"""Batch from which on hooks raise."""

BLOCK = 100
"""Times that are written together."""


def watch() -> None:
    """Change the hooks as the environment says."""
    from voltana_vllm.hooks.meter import Meter

    if path := os.environ.get(TIMES_VARIABLE):
        _time_hooks(Meter, Path(path))
    if path := os.environ.get(HANDED_VARIABLE):
        _time_handing(Meter, Path(path))
    if path := os.environ.get(TOGGLE_VARIABLE):
        _toggle(Meter, Path(path))
    if first := os.environ.get(RAISE_VARIABLE):
        _raise_in(Meter, int(first))


def _time_hooks(meter: Any, path: Path) -> None:
    """Sum up what the hooks of an iteration take, and write it now and then."""
    from hook_turns import cost_ns

    spent: list[float] = []
    times: list[float] = []

    def timed(name: str) -> None:
        original = getattr(meter, name)

        def around(self: Any, *args: Any) -> None:
            spent.append(cost_ns(original, self, *args) / 1e9)
            if name == "updated" and len(spent) >= 2:
                times.append(sum(spent))
                spent.clear()
            if len(times) >= BLOCK:
                with path.open("ab") as file:
                    file.write(struct.pack(f"={len(times)}d", *times))
                times.clear()

        setattr(meter, name, around)

    for name in ("scheduled", "asked", "freed", "updated"):
        timed(name)


def _time_handing(meter: Any, path: Path) -> None:
    """Time what lies between a launch and where vLLM begins to count."""
    launched_s = [0.0]

    def noted(name: str) -> None:
        original = getattr(meter, name)

        def around(self: Any, *args: Any) -> None:
            original(self, *args)
            launch_s = self._times[self._at - 1] if self._at > self._first else self._launch_s
            if self.due is not None:
                launch_s = 0.0
            if launch_s:
                if not launched_s[0]:
                    count()
                launched_s[0] = launch_s

        setattr(meter, name, around)

    def count() -> None:
        from vllm.v1.engine import core

        details = core.compute_iteration_details

        def counted(*args: Any) -> Any:
            made = details(*args)
            with path.open("ab") as file:
                file.write(struct.pack("=d", time.monotonic() - launched_s[0]))
            return made

        core.compute_iteration_details = counted

    for name in ("scheduled", "asked"):
        noted(name)


def _toggle(meter: Any, path: Path) -> None:
    """Switch the hooks off, on, and for others, every few iterations."""
    from hook_turns import Turns

    attached = meter.__init__

    def init(self: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        attached(self, scheduler, *args, **kwargs)
        scheduler.schedule = Turns(scheduler, self, path).schedule

    meter.__init__ = init


def _raise_in(meter: Any, first: int) -> None:
    original = meter.scheduled
    number = itertools.count()  # the meter's own stands still as long as batches repeat

    def scheduled(self: Any, output: Any) -> None:
        if next(number) >= first:
            raise ZeroDivisionError("injected")
        original(self, output)

    meter.scheduled = scheduled


watch()

if __name__ == "__main__":
    import runpy

    # This file stays the main module, which is what spawned processes import.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
