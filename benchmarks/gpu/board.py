"""The board without an engine: what its calls cost, and its power idle, held open, and at work.

Work is matrix products of a process of its own, for as long as it is watched: the sensor's mean is
held against the rise of the energy counter, where the load is known to be steady.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.readings import Sampler
from voltana.serving.launch.allocation import VISIBLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.gpu.readings import ReadOnlyGpu
    from benchmarks.gpu.results import Results
    from benchmarks.gpu.settings import Settings

CALLS = 200
WARM_UP_S = 2.0
"""Until the power of a load is steady; the sensor of Hopper averages over a second."""

_OPEN = """
import sys, torch
x = torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
print("ready", flush=True)
"""
CONTEXT = _OPEN + "sys.stdin.read()\n"
PRODUCTS = (
    _OPEN
    + """
import threading
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
x.normal_()
while not over.is_set():
    for _ in range(20):
        y = x @ x
    torch.cuda.synchronize()
"""
)


def board_steps(
    settings: Settings,
    gpus: tuple[ReadOnlyGpu, ...],
    results: Results,
    say: Callable[[str, str], None],
) -> None:
    """Measure what is missing of the board itself."""
    results.step("calls", lambda: call_costs(gpus[0]))
    say("idle", f"watching for {settings.idle_s:g} s: alone, held open, and multiplying matrices")
    results.step("idle", lambda: watch(gpus, settings.idle_s, settings.out / "idle.npz"))
    for name, script in (("held_open", CONTEXT), ("products", PRODUCTS)):
        results.step(name, lambda s=script, n=name: _with(s, settings, gpus, n))  # type: ignore[misc]


def call_costs(gpu: ReadOnlyGpu) -> dict[str, dict[str, float]]:
    """What each reading costs, in microseconds: of time, and of this thread's CPU.

    Calls that the board refuses are left out.
    """
    found = {}
    for name, call in gpu.readings().items():
        try:
            took_us = np.array([_timed_us(call) for _ in range(CALLS)])
        except Exception:  # noqa: BLE001  (whatever a driver says: no such reading)
            continue
        p50, p99 = np.percentile(took_us[:, 0], (50, 99))
        found[name] = {
            "p50_us": round(float(p50), 1),
            "p99_us": round(float(p99), 1),
            "cpu_us": round(float(took_us[:, 1].mean()), 1),
        }
    return found


def watch(gpus: tuple[ReadOnlyGpu, ...], seconds: float, trace: Path) -> dict[str, Any]:
    """Read the boards for a while; every reading goes into a file."""
    with Sampler(gpus) as sampler:
        time.sleep(seconds)
    sampler.save(trace)
    return sampler.reading().figures()


def _with(
    script: str, settings: Settings, gpus: tuple[ReadOnlyGpu, ...], name: str
) -> dict[str, Any]:
    """Watch the boards while a script runs on the first of them."""
    environment = os.environ | {VISIBLE: gpus[0].uuid}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            _, said = process.communicate()
            return {"skipped": (said.strip().splitlines() or ["it ended"])[-1]}
        time.sleep(min(WARM_UP_S, settings.idle_s))
        figures = watch(gpus, settings.idle_s, settings.out / f"{name}.npz")
        process.communicate()
    return figures


def _timed_us(call: Callable[[], Any]) -> tuple[float, float]:
    start, cpu = time.perf_counter_ns(), time.thread_time_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e3, (time.thread_time_ns() - cpu) / 1e3
