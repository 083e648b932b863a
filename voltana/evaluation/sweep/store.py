"""The folder of a sweep: one record a finished scenario, and the plan that they belong to.

A record appears whole or not at all: it is written beside its place, synchronised to disk and
renamed. So a sweep may be killed at any instant, and what it had finished is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from voltana import __version__
from voltana.errors import ConfigError
from voltana.evaluation.sweep.code import code_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from voltana.evaluation.sweep.plan import Plan
    from voltana.evaluation.sweep.work import Row

SCHEMA = 1
"""Of records, plan and Parquet; counts up when what they hold changes."""

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
        with said_where(folder):
            (folder / RECORDS).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"folder {str(folder)!r} is in use by another sweep. Wait for it, or take another."
            ) from None

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
        if before is None and (self.folder / RESULTS).exists():
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
        write_whole(self.folder / PLAN, json.dumps(content, indent=1).encode())

    def rows(self, key: str) -> tuple[Row, ...] | None:
        """The figures of a finished scenario; None if it has to be run (again)."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._path(key).read_bytes())
            if record["key"] == key and record["schema"] == SCHEMA:
                return tuple(record["rows"])
        return None

    def keep(self, key: str, scenario: dict[str, Any], rows: Iterable[Row]) -> None:
        """Keep the figures of a finished scenario.

        Raises:
            ConfigError: If the disk is full or broken; nothing that was kept before is touched.
        """
        content = {"schema": SCHEMA, "key": key, "scenario": scenario, "rows": list(rows)}
        write_whole(self._path(key), json.dumps(content, allow_nan=False).encode())

    def _path(self, key: str) -> Path:
        return self.folder / RECORDS / f"{key}.json"


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What was written down of a sweep; None if the folder holds none.

    Raises:
        ConfigError: If it cannot be read.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be read: {error}. Take another folder, or delete this file to "
            "begin anew with the runs that are kept."
        ) from None
    return plan if isinstance(plan, dict) else {}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was before.

    Raises:
        ConfigError: If it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with said_where(path):
            with beside.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            beside.replace(path)
            _synchronise(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def said_where(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into the user's error."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. The runs that are kept "
            "stay: make room or name another folder, and give the same command again."
        ) from None


def _told(of: dict[str, Any]) -> str:
    return f"voltana {of.get('voltana')} (code {str(of.get('code'))[:8]}, form {of.get('schema')})"
