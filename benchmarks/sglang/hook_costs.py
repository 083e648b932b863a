"""What voltana's hooks cost, from the files that the package for SGLang on CPUs writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sglang.ratios import ratio_of_pairs

# By its place in the tree: where SGLang runs on a GPU, the package for CPUs is not installed.
from integrations.sglang.cpu.voltana_sglang_cpu.hook_cost import MEASURED, empty_hook_ns
from integrations.sglang.cpu.voltana_sglang_cpu.hook_toggle import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

_LEAST_BLOCKS = 3
"""Fewer do not give an interval."""


def read_hook_costs(costs: Path) -> dict[str, Any]:
    """What hooks took per iteration in microseconds, the measurement itself taken out.

    Args:
        costs: Folder of the files; one at least of each hook.
    """
    by_hook = {
        hook: np.concatenate([np.fromfile(path, np.int64) for path in costs.glob(f"{hook}-*.ns")])
        for hook in MEASURED
    }
    iterations = min(len(values) for values in by_hook.values())
    empty_us = len(MEASURED) * empty_hook_ns() / 1e3
    whole_us = sum(values[:iterations] for values in by_hook.values()) / 1e3 - empty_us
    return {
        "iterations": iterations,
        "measurement_us": empty_us,
        "p50_us": float(np.percentile(whole_us, 50)),
        "p99_us": float(np.percentile(whole_us, 99)),
        **{f"{hook}_p50_us": float(np.median(v) / 1e3) for hook, v in by_hook.items()},
    }


def read_toggled(log: Path, requests: int) -> dict[str, Any]:
    """Time of decode iterations with hooks off over that with hooks on, as ratios in words.

    Each block with hooks on is held against the mean of its neighbours without, so that the growth
    of the KV cache cancels.

    Args:
        log: The file of ``hook_toggle``.
        requests: Batch of the blocks that count.
    """
    rows = np.fromfile(log, np.int64).reshape(-1, COLUMNS)
    whole = rows[:, 4] == requests
    usable = whole[1:-1] & whole[:-2] & whole[2:] & (rows[1:-1, 0] == 1)
    figures: dict[str, Any] = {"blocks": int(usable.sum())}
    for name, column in (("cpu", 1), ("wall", 2)) if usable.sum() >= _LEAST_BLOCKS else ():
        with_hooks = rows[1:-1, column][usable]
        without = (rows[:-2, column][usable] + rows[2:, column][usable]) / 2
        figures[f"{name}_ratio"] = str(ratio_of_pairs(without, with_hooks))
    return figures
