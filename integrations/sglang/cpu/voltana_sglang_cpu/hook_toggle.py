"""Switches voltana's hooks off and on every few iterations of one engine, and times both.

``VOLTANA_HOOK_TOGGLE=FILE`` turns it on; nothing is touched otherwise. Neighbouring blocks of
iterations see the same machine, so that their ratio shows an overhead of a fraction of a per cent
on a machine that does other things too. Rows of five 64-bit numbers are appended to the file:
whether the hooks were on, thread CPU time and time of the block in nanoseconds, its iterations, and
the requests of its batch; 0 requests where it was not one decode batch throughout.
"""

from __future__ import annotations

import functools
import os
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "VOLTANA_HOOK_TOGGLE"
PLUGIN = "voltana"
BLOCK = 16
"""Iterations that the hooks stay on or off."""

COLUMNS = 5
ROWS_PER_WRITE = 8


class Toggle:
    """Counts iterations of this process and switches.

    Args:
        path: Where rows go.
    """

    def __init__(self, path: Path) -> None:
        self.on = True
        self._path = path
        self._rows = array("q")
        self._left = BLOCK
        self._requests = -1
        self._began = (time.thread_time_ns(), time.perf_counter_ns())

    def iteration(self, batch: Any) -> None:
        """Before an iteration."""
        if self._left == 0:
            self._end_block()
        self._left -= 1
        requests = len(batch.reqs) if batch.forward_mode.is_decode() else 0
        if self._requests not in {requests, -1}:
            requests = 0
        self._requests = requests

    def _end_block(self) -> None:
        cpu_ns, now_ns = time.thread_time_ns(), time.perf_counter_ns()
        spent = cpu_ns - self._began[0], now_ns - self._began[1]
        self._rows.extend([int(self.on), *spent, BLOCK, self._requests])
        if len(self._rows) >= COLUMNS * ROWS_PER_WRITE:
            with self._path.open("ab") as file:
                self._rows.tofile(file)
            del self._rows[:]
        self.on = not self.on
        self._left, self._requests = BLOCK, -1
        self._began = (time.thread_time_ns(), time.perf_counter_ns())


def toggle_hooks() -> None:
    """Toggle voltana's hooks from now on, if the variable asks for it."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry  # noqa: PLC0415

    apply = HookRegistry.apply_hooks
    made = Toggle(Path(path))

    def toggled_apply() -> None:
        for target, hooks in HookRegistry._hooks.items():
            counts = target.endswith(".run_batch")
            hooks[:] = [_toggled(hook, made, counts=counts) for hook in hooks]
        apply()

    HookRegistry.apply_hooks = toggled_apply


def _toggled(hook: tuple[Any, ...], toggle: Toggle, *, counts: bool) -> tuple[Any, ...]:
    kind, function, source = hook
    if source is None or source.plugin_name != PLUGIN or kind.value != "around":
        return hook
    return kind, _around(function, toggle, counts=counts), source


def _around(function: Callable[..., Any], toggle: Toggle, *, counts: bool) -> Callable[..., Any]:
    @functools.wraps(function)  # the plugin checks that its hooks are in force
    def toggled(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        if counts:
            toggle.iteration(args[0])
        if toggle.on:
            return function(original, scheduler, *args, **kwargs)
        return original(scheduler, *args, **kwargs)

    return toggled
