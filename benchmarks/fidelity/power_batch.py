"""Power against batch size: average power of whole runs at default clocks.

The plant's iterations are composed by time: all prefills and decode steps of a run (Argonne), or
one decode step with the share of prefill that keeps the batch full (ML.ENERGY). The period is the
measured one, for the pace of those engines' hosts is not the plant's: what the plant's kernels do
not fill of it is spent waiting. Rows at the plant's own pace stand beside them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fidelity import Row
from benchmarks.fidelity.power_runs import argonne, errors, mlenergy, splitwise
from voltana.plant.power import PowerModel

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fidelity.power_runs import PowerRun

SECTION = "power against batch"
TARGET_PERCENT = 15
_SOURCES = ("Argonne", "ML.ENERGY")
_IMPOSSIBLE_PROMPT = "prompt 8192"
"""Splitwise gives 73 W to it, about idle power, while decoding."""


def run(data_dir: Path) -> list[Row]:
    """Compare the average power of runs."""
    runs = [*argonne(data_dir), *mlenergy(data_dir)]
    rows = [_row("Argonne and ML.ENERGY together", runs, target=True)]
    for source in _SOURCES:
        for board in ("a100-sxm4-40gb", "h100-sxm"):
            chosen = [r for r in runs if r.source.startswith(source) and r.hardware.name == board]
            rows.append(_row(f"{source}, {board}", chosen, target=True))
    mii = [run for run in runs if run.source == "Argonne Deepspeed-MII"]
    rows.append(_row("of these DeepSpeed-MII (held out)", mii))
    for source in _SOURCES:
        chosen = [_own_pace(run) for run in runs if run.source.startswith(source)]
        rows.append(_row(f"{source}, at the plant's own pace", chosen))
    split = [run for run in splitwise(data_dir) if _IMPOSSIBLE_PROMPT not in run.label]
    rows.append(_row("Splitwise, Llama-2-70B on two A100-SXM4-80GB (held out)", split))
    return rows


def _own_pace(run: PowerRun) -> PowerRun:
    return replace(run, period_s=run.busy_s)


def _row(what: str, runs: list[PowerRun], *, target: bool = False) -> Row:
    powers = {run.hardware.name: PowerModel(run.hardware) for run in runs}
    error = np.concatenate([errors([run], powers[run.hardware.name]) for run in runs])
    return Row(
        section=SECTION,
        what=f"{what}: median absolute error (bias {100 * error.mean():+.0f} %)",
        measured=float(100 * np.median(np.abs(error))),
        high=TARGET_PERCENT if target else None,
        rows=len(runs),
    )
