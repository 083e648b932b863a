"""Files that are there whole or as they were before, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import IO, TYPE_CHECKING

from voltana.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REMEDY = "What was there before stays: make room, or name another place."


def write_whole(path: Path, content: bytes, remedy: str = REMEDY) -> None:
    """Write a file so that it is there whole or as it was before; links are followed.

    What is no file, such as ``/dev/stdout``, is written as it is.

    Args:
        path: Of the file, in a folder that is there.
        content: All of it.
        remedy: What a user is told to do where it cannot be written.

    Raises:
        ConfigError: If it cannot be written.
    """
    with said_where(path, remedy):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        target = path.resolve()
        beside = target.with_name(f".{target.name[:200]}.{os.getpid()}")
        try:
            with beside.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            beside.replace(target)
            _synchronise(target.parent)
        finally:
            beside.unlink(missing_ok=True)


def hold_alone(opened: IO[str], folder: Path, by: str) -> None:
    """Hold a file of a folder until it is closed, so that two programs never write there at once.

    Args:
        opened: The file; closed where another holds it.
        folder: It lies in, for the error.
        by: What writes there, for the error.

    Raises:
        ConfigError: If another process holds it.
    """
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        raise ConfigError(
            f"folder {str(folder)!r} is in use by another {by}. Wait for it, or take another."
        ) from None


def remove_torn(folder: Path) -> None:
    """Remove what a killed program was writing beside its place in a folder.

    Only for a folder in which nobody else writes now.

    Args:
        folder: Where `write_whole` wrote.
    """
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdecimal() and path.is_file():
            path.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Make a new name in a folder outlive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def said_where(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Turn what a disk refuses into the user's error."""
    try:
        yield
    except ConfigError:  # said already, and a ValueError too
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} cannot be written: {reason}. {remedy}") from None
