"""Measures what voltana's hooks cost an engine, in place: thread CPU time of every call.

``VOLTANA_HOOK_COST=FOLDER`` turns it on; nothing is touched otherwise. Each process then appends
nanoseconds as 64-bit numbers to one file a hooked method. The time of the hooked method itself is
taken out, and so is that of waiting for the device: the wait spins, and what a hook has waited for,
the engine need not wait for after it. What the measurement itself costs (`empty_hook_ns`) is left
in.
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

VARIABLE = "VOLTANA_HOOK_COST"
PLUGIN = "voltana"
PER_WRITE = 64
MEASURED = ("run_batch", "process_batch_result")


def measure_hooks() -> None:
    """Time voltana's hooks from now on, if the variable asks for it; before hooks are applied."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry  # noqa: PLC0415

    _time_waits()
    apply = HookRegistry.apply_hooks

    def timed_apply() -> None:
        for target, hooks in HookRegistry._hooks.items():
            method = target.rsplit(".", 1)[-1]
            if method in MEASURED:
                log = _Log(Path(folder) / f"{method}-{os.getpid()}.ns")
                hooks[:] = [_timed(hook, log) for hook in hooks]
        apply()

    HookRegistry.apply_hooks = timed_apply


def empty_hook_ns(calls: int = 20_000) -> float:
    """What a hook that does nothing is measured at on this machine: the median."""
    log = _Log(None)
    timed = _timed_around(lambda original, *args: original(*args), log)
    for _ in range(calls):
        timed(lambda *_: None, None, None)
    return float(sorted(log.costs_ns)[calls // 2])


class _Waits:
    """Thread CPU time that was spent waiting for the device so far."""

    total_ns = 0


def _time_waits() -> None:
    """Count the time of every wait for an event of the device, where torch has one."""
    import torch  # noqa: PLC0415

    wait = torch.cuda.Event.synchronize

    @functools.wraps(wait)
    def timed(event: Any) -> None:
        began = time.thread_time_ns()
        wait(event)
        _Waits.total_ns += time.thread_time_ns() - began

    torch.cuda.Event.synchronize = timed


class _Log:
    """Collects costs and appends them to a file, if there is one, now and then."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.costs_ns = array("q")

    def add(self, cost_ns: int) -> None:
        self.costs_ns.append(cost_ns)
        if self._path is not None and len(self.costs_ns) >= PER_WRITE:
            with self._path.open("ab") as file:
                self.costs_ns.tofile(file)
            del self.costs_ns[:]


def _timed(hook: tuple[Any, ...], log: _Log) -> tuple[Any, ...]:
    kind, function, source = hook
    if source is None or source.plugin_name != PLUGIN or kind.value != "around":
        return hook
    return kind, _timed_around(function, log), source


def _timed_around(function: Callable[..., Any], log: _Log) -> Callable[..., Any]:
    clock = time.thread_time_ns

    @functools.wraps(function)  # the plugin checks that its hooks are in force
    def timed(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        inside = waited_inside = 0

        def called(*inner: Any, **named: Any) -> Any:
            nonlocal inside, waited_inside
            entered, waited = clock(), _Waits.total_ns
            try:
                return original(*inner, **named)
            finally:
                inside += clock() - entered
                waited_inside += _Waits.total_ns - waited

        began, waited = clock(), _Waits.total_ns
        try:
            return function(called, *args, **kwargs)
        finally:
            waited = _Waits.total_ns - waited - waited_inside
            log.add(clock() - began - inside - waited)

    return timed
