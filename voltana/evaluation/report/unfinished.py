"""Runs and sweeps that have not ended: what is said of them instead of, or beside, their report."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.evaluation.partial import PARTIAL
from voltana.evaluation.report.series import SERIES

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def check_run(folder: Path) -> None:
    """Refuse a folder whose first run has not ended.

    Raises:
        ConfigError: If it has found something and not all.
    """
    if (folder / PARTIAL).is_file() and not (folder / SERIES).is_file():
        raise ConfigError(
            f"the run in {str(folder)!r} has not ended: {PARTIAL} holds what it has found so far. "
            "Wait for it; if it was killed, give the same command of 'voltana simulate' again."
        )


def notes_of_run(folder: Path) -> list[str]:
    """What a reader has to know where another run into the same folder has not ended."""
    partial, series = folder / PARTIAL, folder / SERIES
    if not partial.is_file() or partial.stat().st_mtime <= series.stat().st_mtime:
        return []
    return [
        f"{PARTIAL} is newer than these figures: another run into the same folder has not ended, "
        "and these are of the one before."
    ]


def check_sweep(file: Path) -> None:
    """Refuse a sweep that has not made its Parquet yet.

    Raises:
        ConfigError: If there is a plan and no file.
    """
    kept, asked = _progress(file)
    if asked and not file.exists():
        raise ConfigError(
            f"the sweep in {str(file.parent)!r} has not ended: {kept} of {asked} scenarios are "
            "kept. Wait for it; if it was killed, give the same command again, which goes on."
        )


def notes_of_sweep(file: Path, runs: Collection[str]) -> list[str]:
    """What a reader has to know where the folder asks for more than its Parquet holds.

    Args:
        file: The Parquet.
        runs: Keys of the scenarios in it.
    """
    missing = len(_asked(file) - set(runs))
    if not missing:
        return []
    return [
        f"{missing} scenarios that the folder asks for are not in {file.name}: the sweep has not "
        "ended, or they failed. The same command goes on."
    ]


def _progress(file: Path) -> tuple[int, int]:
    from voltana.evaluation.sweep.store import RECORDS  # noqa: PLC0415  (with the simulator)

    asked = _asked(file)
    kept = {path.stem for path in (file.parent / RECORDS).glob("*.json")}
    return len(asked & kept), len(asked)


def _asked(file: Path) -> set[str]:
    """Keys of the scenarios that the folder of a Parquet asks for; none where it does not say."""
    from voltana.evaluation.sweep.store import RESULTS, read_plan  # noqa: PLC0415

    if file.name == RESULTS:
        with contextlib.suppress(ConfigError, AttributeError, TypeError):
            return set((read_plan(file.parent) or {}).get("runs", ()))
    return set()
