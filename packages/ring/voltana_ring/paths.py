"""Where rings and bells lie: one folder in memory, which engines and agents share."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".ring"


def ring_path(folder: Path, instance: str, suffix: str) -> Path:
    """File of a ring."""
    return folder / f"{instance}{suffix}{SUFFIX}"


def bell_path(folder: Path, instance: str) -> Path:
    """FIFO that wakes the agent of an instance."""
    return folder / f"{instance}.bell"


def make_folder(path: Path) -> None:
    """Make the folder of the rings, or take one that is this user's own.

    Raises:
        PermissionError: If another user owns it, or others may write to it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(
            f"agent.rings = {str(path)!r} is not allowed: must be owned by this user and closed to "
            "the writes of others. Choose another folder, or chmod 700 it."
        )
