"""Latency against the SM clock: EnergAIzer's forward passes on A100, composed from operators."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row
from tools.calibration.clocks import predicted_seconds, relative_errors
from tools.calibration.eager import HARDWARE, workloads
from voltana.plant import load_hardware

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.values import FloatArray

SECTION = "Latency against the clock (EnergAIzer, A100)"


def run(data_dir: Path) -> list[Row]:
    """Times relative to each workload's fastest clock; launch-bound workloads are left out."""
    hardware = load_hardware(HARDWARE)
    errors: dict[str, list[FloatArray]] = defaultdict(list)
    absolute: list[float] = []
    for workload in workloads(data_dir):
        if workload.launch_bound:
            continue
        found = relative_errors(hardware, workload)
        errors["all workloads"].append(found)
        errors[f"{workload.model} {workload.dtype}"].append(found)
        if workload.dtype == "bf16":
            predicted = predicted_seconds(hardware, workload)
            absolute.append(float(predicted[-1] / workload.seconds[-1] - 1.0))
    rows = [
        Row(
            section=SECTION,
            what=f"{name}: rms error of the time relative to the fastest clock",
            measured=100.0 * float(np.sqrt(np.mean(np.concatenate(parts) ** 2))),
            high=3.0 if name == "all workloads" else None,
            rows=sum(map(len, parts)),
        )
        for name, parts in errors.items()
    ]
    return [
        *rows,
        Row(
            section=SECTION,
            what="bf16: median absolute error of the time itself, to which nothing was fitted",
            measured=100.0 * float(np.median(np.abs(absolute))),
            rows=len(absolute),
        ),
    ]
