"""Starts a vLLM server whose hooks are watched, or made to fail, in its own engine core.

Processes that vLLM starts import this file anew, so that what it does is done there as well.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

TIMES_VARIABLE = "VOLTANA_TEST_HOOK_TIMES"
"""A file for the thread CPU time that hooks took, in seconds: a double an iteration."""

RAISE_VARIABLE = "VOLTANA_TEST_HOOK_RAISES"
"""Iteration from which on hooks raise."""

BLOCK = 100


def watch() -> None:
    """Change the hooks as the environment says."""
    from voltana_vllm.hooks.meter import Meter

    if path := os.environ.get(TIMES_VARIABLE):
        _time_hooks(Meter, Path(path))
    if first := os.environ.get(RAISE_VARIABLE):
        _raise_in(Meter, int(first))


def _time_hooks(meter: Any, path: Path) -> None:
    """Sum up what the hooks of an iteration take, and write it now and then."""
    spent: list[float] = []
    times: list[float] = []

    def timed(name: str) -> None:
        original = getattr(meter, name)

        def around(self: Any, *args: Any) -> None:
            first, began = time.thread_time_ns(), time.thread_time_ns()
            original(self, *args)
            clock = began - first  # what reading it costs here and now
            spent.append((time.thread_time_ns() - began - clock) / 1e9)
            if name == "updated" and len(spent) >= 2:
                times.append(sum(spent))
                spent.clear()
            if len(times) >= BLOCK:
                with path.open("ab") as file:
                    file.write(struct.pack(f"={len(times)}d", *times))
                times.clear()

        setattr(meter, name, around)

    for name in ("scheduled", "updated"):
        timed(name)


def _raise_in(meter: Any, first: int) -> None:
    original = meter.scheduled

    def scheduled(self: Any, output: Any) -> None:
        if self.iterations >= first:
            raise ZeroDivisionError("injected")
        original(self, output)

    meter.scheduled = scheduled


watch()

if __name__ == "__main__":
    import runpy

    # This file stays the main module, which is what spawned processes import.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
