"""Thread CPU time of voltana's hooks, from the files of ``voltana_sglang_cpu.hook_cost``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

# By its place in the tree: where SGLang runs on a GPU, the package for CPUs is not installed.
from integrations.sglang.cpu.voltana_sglang_cpu.hook_cost import MEASURED, empty_hook_ns

if TYPE_CHECKING:
    from pathlib import Path


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
