"""Where a policy's files lie while it is rehearsed, and what is kept of them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from voltana.errors import VoltanaError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = ("logs", "records")


@contextlib.contextmanager
def work_folder(kept: Path | None, name: str) -> Iterator[Path]:
    """Where a policy's files lie; sockets need short paths, so that what is kept is copied."""
    with tempfile.TemporaryDirectory(prefix="voltana-", dir=_memory()) as made:
        work = Path(made) / "r"
        try:
            yield work
        finally:
            if kept is not None:
                _keep(work, kept / name.replace("/", "-").replace(":", "-"))


def _keep(work: Path, shelf: Path) -> None:
    """Copy what is there of logs and records.

    Raises:
        VoltanaError: If there is no room for them.
    """
    try:
        for part in KEPT:
            if (work / part).is_dir():
                shutil.copytree(work / part, shelf / part, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise VoltanaError(
            f"logs and records cannot be kept in {shelf}: {error}. Make room there, or name "
            "another folder by --out."
        ) from None


def _memory() -> Path | None:
    """A file system in memory, where there is one: engines must not wait for a disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None
