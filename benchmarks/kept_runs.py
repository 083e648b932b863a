"""Runs the sweep of a benchmark: what was run stays in a folder, and whoever waits is told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from voltana.evaluation.sweep import LocalWorkers, run_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from voltana.evaluation.sweep import Plan


def rows_of(
    plan: Plan, folder: Path, processes: int, labels: Mapping[str, str] | None = None
) -> Sequence[Mapping[str, Any]]:
    """The figures of every scenario that did not fail; those that did are told on standard error.

    Args:
        plan: What is run.
        folder: Keeps every scenario as soon as it has ended, what it holds is not run again.
        processes: At once.
        labels: What scenarios are called, by their keys; None tells the keys.
    """
    outcome = run_sweep(plan, folder, LocalWorkers(processes), _progress)
    for key, reason in outcome.failures.items():
        print(f"{(labels or {}).get(key, key)} failed: {reason}", file=sys.stderr)
    return outcome.rows


def _progress(ended: int, total: int, failed: int) -> None:
    print(f"{ended}/{total} scenarios, {failed} failed", file=sys.stderr, flush=True)
