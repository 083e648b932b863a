"""Where rings and bells lie, in a folder that engines and agents share, and how they are named."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

SUFFIX = ".ring"

INSTANCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of instances: files are named after them."""

ALLOWED_NAME = "letters, digits, '-', '_' and '.', at most 64"
"""`INSTANCE_NAME` in words."""


def default_rings() -> Path:
    """A folder in memory that is this user's own; `make_folder` refuses it if another made it."""
    memory = Path("/dev/shm")
    root = memory if memory.is_dir() else Path(tempfile.gettempdir())
    return root / f"voltana-sglang-{os.getuid()}"


def default_state() -> Path:
    """Where what was learned, and logs, are kept: the user's folder for such things."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "voltana-sglang"


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
