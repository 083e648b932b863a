"""What the hooks cost a real server, switched on and off in turns within one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.sglang.ratios import ratio_of_pairs
from measured import load
from vllm_server import VllmServer
from watched_server import IN_A_TURN, ROW

if TYPE_CHECKING:
    from pathlib import Path

PORT = 23240
REQUESTS = 24
LEAST_PAIRS = 40
LEAST_RATIO = 0.98
MOST_SHARE = 0.01
"""Of an iteration's CPU time, where the ratio does not hold; see docs/vllm.md."""


def test_throughput_is_kept(model: Path, config: Path) -> None:
    rows, times = config.with_name("toggled.rows"), config.with_name("toggled.times")
    own = {
        "VOLTANA_VLLM_CONFIG": str(config),
        "VOLTANA_VLLM_INSTANCE": "toggled-0",
        "VOLTANA_TEST_TOGGLE": str(rows),
        "VOLTANA_TEST_HOOK_TIMES": str(times),
    }
    log = config.with_name("toggled.log")
    with VllmServer(model, PORT, log, ["--no-async-scheduling"], own, watched=True) as made:
        made.wait()
        cpu_s = made.engine_cpu_s()
        load(made.url, requests=REQUESTS, runs=40, prompt=48, tokens=160)
        cpu_s = made.engine_cpu_s() - cpu_s
    table = np.fromfile(rows, np.int64).reshape(-1, ROW.size // 8)
    turns = table[: len(table) // IN_A_TURN * IN_A_TURN].reshape(-1, IN_A_TURN, table.shape[1])
    whole = (turns[:, :, 1] == REQUESTS).all(axis=1)
    usable = whole[:-3] & whole[1:-2] & whole[2:-1] & whole[3:] & (turns[1:-2, 0, 0] == 1)
    said = {}
    for name, column in (("time", 2), ("CPU time", 3)):
        # From the first of a turn to the first of the next one.
        lasted = np.diff(turns[:, 0, column]).astype(float)
        between = (lasted[:-2] + lasted[2:]) / 2  # neighbours without, so that growth cancels
        said[name] = ratio_of_pairs(between[usable], lasted[1:-1][usable])
    hooks_us = 1e6 * float(np.fromfile(times).mean())
    lasts_us, cpu_us = np.diff(turns[:, 0, 2]).mean() / IN_A_TURN / 1e3, 1e6 * cpu_s / len(table)
    sys.stdout.write(
        f"\nhooks take {hooks_us:.1f} us of iterations of {lasts_us:.0f} us, and of "
        f"{cpu_us:.0f} us of CPU time of engine core and worker: "
        f"{100 * hooks_us / cpu_us:.2f} % (means)\n"
    )
    for name, ratio in said.items():
        sys.stdout.write(f"{name} without hooks, of that with: {ratio}\n")
    assert said["time"].pairs >= LEAST_PAIRS
    assert said["time"].low >= LEAST_RATIO or hooks_us <= MOST_SHARE * cpu_us
