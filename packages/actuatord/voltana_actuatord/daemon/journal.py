"""What the daemon has locked, on disk before it is locked: for restarts, when nothing else is left.

One small file a GPU, named by UUID, so that no two processes share one and indices may change over
a reboot. `UUID.locked` stands while the GPU may not be at its default clocks; whoever finds one
resets that GPU before anything else. `UUID.watched` stands while it was reset, but not yet seen
under load. Marks are written atomically (rename) and durably (fsync), and again where somebody
removed them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9-]{1,96}")
_MAX_BYTES = 4096
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe in a mark's place holds nobody up
_CLOCK = '{{"clock_mhz": {:9.1f}, '


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a mark says.

    Attributes:
        had_setting: Whether somebody else had set a clock before.
        clock_mhz: Clock of the last lock; 0 if it is not known.
        baseline_mhz: Clock that the operator wants in its place; None for the default clocks.
    """

    had_setting: bool = False
    clock_mhz: float = 0.0
    baseline_mhz: float | None = None


class Journal:
    """Marks of GPUs that are not at their default clocks.

    Args:
        folder: Where the marks lie; created with mode 0700 if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make_folder()

    def mark(
        self,
        uuid: str,
        *,
        had_setting: bool,
        clock_mhz: float = 0.0,
        baseline_mhz: float | None = None,
    ) -> None:
        """Record durably that a GPU is about to be locked.

        Args:
            uuid: The GPU.
            had_setting: Whether somebody else had set a clock on it before.
            clock_mhz: The clock, if it is known.
            baseline_mhz: What the operator wants in its place.

        Raises:
            OSError: If it cannot be written: then nothing may be locked.
        """
        path = self._path(uuid)
        draft = path.with_suffix(".draft")
        rest = {"uuid": uuid, "had_setting": had_setting, "baseline_mhz": baseline_mhz}
        text = _CLOCK.format(clock_mhz) + json.dumps(rest)[1:]
        self._make_folder()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
        try:
            if os.write(handle, text.encode()) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.rename(path)
        self._sync_folder()
        path.with_suffix(".watched").unlink(missing_ok=True)

    def note_clock(self, uuid: str, clock_mhz: float) -> None:
        """Record the clock of a lock, for whoever restores after a restart; not durable.

        Power that fails takes the lock with it.
        """
        with contextlib.suppress(OSError):
            handle = os.open(self._path(uuid), os.O_WRONLY | _FLAGS)
            try:
                os.pwrite(handle, _CLOCK.format(clock_mhz).encode(), 0)
            finally:
                os.close(handle)

    def ensure(
        self, uuid: str, *, had_setting: bool, clock_mhz: float, baseline_mhz: float | None
    ) -> None:
        """Write a mark again if somebody removed it, or the whole folder."""
        with contextlib.suppress(OSError):
            if not self._path(uuid).exists():
                self.mark(
                    uuid, had_setting=had_setting, clock_mhz=clock_mhz, baseline_mhz=baseline_mhz
                )

    def watch(self, uuid: str) -> None:
        """Record that a GPU was reset, but not yet seen under load.

        Raises:
            OSError: If the folder cannot be written.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path(uuid).rename(self._path(uuid).with_suffix(".watched"))

    def clear(self, uuid: str) -> None:
        """Record that a GPU is at its default clocks again; no error if it was not marked.

        Raises:
            OSError: If the folder cannot be written.
        """
        path = self._path(uuid)
        gone = False
        for each in (path, path.with_suffix(".watched")):
            with contextlib.suppress(FileNotFoundError):
                each.unlink()
                gone = True
        if gone:
            self._sync_folder()

    def marked(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that may be locked, in order."""
        return self._named("locked")

    def watched(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that were reset and not seen under load since, in order."""
        return self._named("watched")

    def read(self, uuid: str) -> Mark:
        """What the mark of a GPU says; nothing in particular where it cannot be read."""
        for path in (self._path(uuid), self._path(uuid).with_suffix(".watched")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads(_head(path))
                return Mark(
                    had_setting=found["had_setting"] is True,
                    clock_mhz=_clock(found.get("clock_mhz")) or 0.0,
                    baseline_mhz=_clock(found.get("baseline_mhz")),
                )
        return Mark()

    def had_setting(self, uuid: str) -> bool:
        """What `mark` was told; False where the mark cannot be read."""
        return self.read(uuid).had_setting

    def _named(self, suffix: str) -> tuple[str, ...]:
        stems = (path.stem for path in self._folder.glob(f"*.{suffix}"))
        return tuple(sorted(stem for stem in stems if _NAME.fullmatch(stem)))

    def _path(self, uuid: str) -> Path:
        if not _NAME.fullmatch(uuid):
            raise ValueError(f"a GPU's UUID cannot be {uuid!r}.")
        return self._folder / f"{uuid}.locked"

    def _make_folder(self) -> None:
        """Make it if it is gone; never write where somebody has put a link in its place."""
        for folder in (self._folder, self._folder.parent):
            if folder.is_symlink():
                raise OSError(
                    errno.ELOOP, "the state folder has become a symbolic link", str(folder)
                )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _head(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | _FLAGS), "rb") as file:
        return file.read(_MAX_BYTES)


def _clock(value: object) -> float | None:
    """A clock of a file that somebody may have changed; None where it is none."""
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e5 else None
