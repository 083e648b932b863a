"""The folder of a sweep: one record a finished scenario, and the plan that they belong to.

A record appears whole or not at all: it is written beside its place, synchronised to disk and
renamed. So a sweep may be killed at any instant, and what it had finished is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from voltana import __version__
from voltana.errors import ConfigError
from voltana.evaluation.metrics import COLOCATED_FIGURES, Result
from voltana.evaluation.sweep.code import code_digest
from voltana.users_file import load_json, read_text
from voltana.whole_file import hold_alone, remove_torn, said_where, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from voltana.evaluation.sweep.plan import Plan
    from voltana.evaluation.sweep.work import Row

_FIGURES = {field.name for field in dataclasses.fields(Result)} - COLOCATED_FIGURES

SCHEMA = 2
"""Of records, plan and Parquet; counts up when what they hold changes."""

REMEDY = (
    "The runs that are kept stay: make room or name another folder, and give the same command "
    "again."
)

PLAN, RECORDS, LOCK, RESULTS, TIMING = (
    "sweep.json",
    "runs",
    "sweep.lock",
    "results.parquet",
    "timing.parquet",
)


class SweepStore:
    """The folder of a sweep, held by one process at a time.

    Args:
        folder: Made if it is not there.

    Raises:
        ConfigError: If it cannot be written, another sweep runs in it, or it holds the runs of
            other code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with said_where(folder, REMEDY):
            (folder / RECORDS).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK).open("a+")
            hold_alone(self._lock, folder, "sweep")

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def begin(self, plan: Plan) -> None:
        """Write down what is run here; more of the same code may be added to what is there.

        Raises:
            ConfigError: If the runs in the folder are of other code.
        """
        ours = {"schema": SCHEMA, "voltana": __version__, "code": code_digest()}
        before = read_plan(self.folder)
        if before is None and (self.folder / RESULTS).exists() and not self._has_records():
            raise ConfigError(
                f"folder {str(self.folder)!r} holds a {RESULTS} without the sweep that made it. "
                "Take another folder, so that nothing is lost."
            )
        if before is not None and any(before.get(name) != ours[name] for name in ours):
            raise ConfigError(
                f"folder {str(self.folder)!r} holds runs of {_told(before)}, and this is "
                f"{_told(ours)}: their figures do not compare. Take another folder, or go back to "
                "that code to finish it."
            )
        content = {
            **ours,
            "fields": plan.fields,
            "policy_source": plan.policy_source,
            "runs": [point.key for point in plan.points],
        }
        with said_where(self.folder, REMEDY):
            for written in (self.folder, self.folder / RECORDS):
                remove_torn(written)
        write_whole(self.folder / PLAN, json.dumps(content, indent=1).encode(), REMEDY)

    def rows(self, key: str) -> tuple[Row, ...] | None:
        """The figures of a finished scenario; None if it has to be run (again)."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = load_json(read_text(self._path(key)))
            rows = tuple(record["rows"])
            digest = _digest(rows)
            ours = {"key": key, "schema": SCHEMA, "code": code_digest(), "digest": digest}
            if {name: record[name] for name in ours} == ours and all(map(_is_row, rows)):
                return rows
        return None

    def keep(self, key: str, scenario: dict[str, Any], rows: Iterable[Row]) -> None:
        """Keep the figures of a finished scenario.

        Raises:
            ConfigError: If the disk is full or broken; nothing that was kept before is touched.
        """
        rows = json.loads(json.dumps(list(rows), allow_nan=False))
        content = {
            "schema": SCHEMA,
            "code": code_digest(),
            "key": key,
            "digest": _digest(rows),
            "scenario": scenario,
            "rows": rows,
        }
        write_whole(self._path(key), json.dumps(content, allow_nan=False).encode(), REMEDY)

    def _has_records(self) -> bool:
        return any((self.folder / RECORDS).glob("*.json"))

    def _path(self, key: str) -> Path:
        return self.folder / RECORDS / f"{key}.json"


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What was written down of a sweep; None if the folder holds none.

    Raises:
        ConfigError: If it cannot be read.
    """
    path = folder / PLAN
    try:
        plan = load_json(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _no_plan(path, f"cannot be read: {reason}") from None
    if not isinstance(plan, dict) or not plan.keys() >= {"schema", "voltana", "code", "runs"}:
        raise _no_plan(path, "is none that a sweep has written")
    return plan


def _no_plan(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{str(path)!r} {why}. Delete it and give the same command again: the runs that are kept "
        "and of this code are not run again."
    )


def _digest(rows: Iterable[Row]) -> str:
    """What tells rows that a disk or an editor has changed."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:24]


def _is_row(row: object) -> bool:
    """Whether a row of a record has every figure; one that was damaged has to be run again."""
    return isinstance(row, dict) and row.keys() >= _FIGURES


def _told(of: dict[str, Any]) -> str:
    return f"voltana {of.get('voltana')} (code {str(of.get('code'))[:8]}, form {of.get('schema')})"
