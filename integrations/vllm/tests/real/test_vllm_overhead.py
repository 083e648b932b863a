"""What the hooks cost a real server, switched on and off in turns within one."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.sglang.ratios import ratio_of_pairs
from hook_turns import IN_A_TURN, LEFT_OUT, ROW, Hooks
from measured import load
from vllm_server import VllmServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT = 23240
REQUESTS = 24
LEAST_PAIRS = 40
AIMED_PAIRS = 4000
MOST_S = 300.0
"""No more runs begin after so long."""
LEAST_RATIO = 0.98
MOST_SHARE = 0.01
"""Of an iteration's CPU time, where the ratio does not hold; see docs/vllm.md."""


LOADS = {
    "together": {"requests": REQUESTS, "runs": 2, "prompt": 48, "tokens": 800},
    "coming-and-going": {"requests": 240, "at_once": 8, "seed": 7},
}
"""Requests that decode together, where iterations are compared that decode all of them; and such
that come and go all the time, where all are."""


@pytest.mark.parametrize("kind", LOADS)
def test_throughput_is_kept(model: Path, config: Path, kind: str) -> None:
    rows, batch = config.with_name(f"{kind}.rows"), REQUESTS if kind == "together" else None
    own = {
        "VOLTANA_VLLM_CONFIG": str(config),
        "VOLTANA_VLLM_INSTANCE": f"toggled-{kind}",
        "VOLTANA_TEST_TOGGLE": str(rows),
    }
    log = config.with_name(f"{kind}.log")
    pairs: list[tuple[float, float]] = []
    with VllmServer(model, PORT, log, ["--no-async-scheduling"], own, watched=True) as made:
        made.wait()
        cpu_s, ends_s = made.engine_cpu_s(), time.monotonic() + MOST_S
        while len(pairs) < AIMED_PAIRS and time.monotonic() < ends_s:
            load(made.url, **LOADS[kind])
            pairs = list(pairs_of(np.fromfile(rows, np.int64).reshape(-1, ROW.size // 8), batch))
        cpu_s = made.engine_cpu_s() - cpu_s
    table = np.fromfile(rows, np.int64).reshape(-1, ROW.size // 8)
    without, with_hooks = np.array(pairs).T
    ratio = ratio_of_pairs(without, with_hooks)
    cpu_us = 1e6 * cpu_s / len(table)
    lasts_us = float(np.median(np.diff(table[:, 2]))) / 1e3
    sys.stdout.write(
        f"\n{kind}: time without hooks, of that with: {ratio}\n"
        f"iterations of {lasts_us:.0f} us (median), {cpu_us:.0f} us of CPU time of engine core and "
        "worker each\n"
    )
    timed = (Hooks.TIMED, Hooks.FEW, Hooks.EMPTY)
    took_us = {hooks: hook_us(table, hooks, batch) for hooks in timed}
    for hooks, us in took_us.items():
        p10, p50, p99 = np.percentile(us, [10, 50, 99])
        sys.stdout.write(
            f"hooks {hooks.name}: {p10:.1f} us p10, {p50:.1f} us p50, {p99:.1f} us p99, "
            f"{us.mean():.1f} us mean, {100 * us.mean() / cpu_us:.2f} % of that CPU time\n"
        )
    on_the_way = took_us[Hooks.TIMED] - hook_us(table, Hooks.TIMED, batch, 4)
    sys.stdout.write(
        "of ours before a batch is handed over and behind its result: "
        f"{np.median(on_the_way):.1f} us p50, {np.percentile(on_the_way, 99):.1f} us p99\n"
    )
    assert ratio.pairs >= LEAST_PAIRS
    assert ratio.low >= LEAST_RATIO or took_us[Hooks.TIMED].mean() <= MOST_SHARE * cpu_us


def pairs_of(table: np.ndarray, batch: int | None) -> Iterator[tuple[float, float]]:
    """Time without and with hooks of each two turns, ABBA or BAAB, that nothing came between.

    Args:
        table: `ROW` of each iteration.
        batch: Requests that all of them decode; None takes all.
    """
    begins = np.flatnonzero(np.diff(table[:, 5], prepend=-1))
    hooks, began, lasts = table[begins, 0], table[:, 2], np.diff(begins)
    whole = np.minimum.reduceat(_alike(table, batch), begins)
    first = 0
    while first + 4 < len(begins):  # from within a turn to the first of the next one
        kinds = hooks[first : first + 4]
        if set(kinds) != {Hooks.OFF, Hooks.ON} or kinds[0] != kinds[3]:
            first += 1
            continue
        if whole[first : first + 5].all() and (lasts[first : first + 4] == IN_A_TURN).all():
            ends = began[begins[first + 1 : first + 5]]
            lasted = ends - began[begins[first : first + 4] + LEFT_OUT]
            for half in (slice(0, 2), slice(2, 4)):
                on = kinds[half] == Hooks.ON
                yield float(lasted[half][~on][0]), float(lasted[half][on][0])
        first += 4


def _alike(table: np.ndarray, batch: int | None) -> np.ndarray:
    return np.full(len(table), fill_value=True) if batch is None else table[:, 1] == batch


def hook_us(table: np.ndarray, kind: Hooks, batch: int | None, column: int = 3) -> np.ndarray:
    """What hooks took of each iteration but the first of a turn, which they looked at anew."""
    back = LEFT_OUT + 1  # a row holds what the iteration before took
    rows, before = table[back:], table[:-back]
    same = (rows[:, 5] == before[:, 5]) & (rows[:, 0] == kind)
    alike = _alike(rows, batch) & _alike(before, batch)
    return rows[:, column][same & alike] / 1e3
