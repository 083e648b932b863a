"""What the daemon has locked, on disk before it is locked.

One small file a GPU, named by UUID, so that no two threads share one and indices may change over a
reboot. A file exists exactly while its GPU may not be at its default clocks; whoever finds one
resets that GPU before anything else. Writes are atomic (rename) and durable (fsync).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9-]{1,96}")


class Journal:
    """Marks of GPUs that are not at their default clocks.

    Args:
        folder: Where the marks lie; created with mode 0700 if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def mark(self, uuid: str, *, had_setting: bool) -> None:
        """Record durably that a GPU is about to be locked.

        Args:
            uuid: The GPU.
            had_setting: Whether somebody else had set a clock on it before.
        """
        path = self._path(uuid)
        draft = path.with_suffix(".draft")
        text = json.dumps({"uuid": uuid, "had_setting": had_setting})
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        self._sync_folder()

    def clear(self, uuid: str) -> None:
        """Record that a GPU is at its default clocks again; no error if it was not marked."""
        with contextlib.suppress(FileNotFoundError):
            self._path(uuid).unlink()
            self._sync_folder()

    def marked(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that may be locked, in order."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.locked")))

    def had_setting(self, uuid: str) -> bool:
        """What `mark` was told; False where the mark cannot be read."""
        try:
            return bool(json.loads(self._path(uuid).read_text())["had_setting"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _path(self, uuid: str) -> Path:
        if not _NAME.fullmatch(uuid):
            raise ValueError(f"a GPU's UUID cannot be {uuid!r}.")
        return self._folder / f"{uuid}.locked"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
