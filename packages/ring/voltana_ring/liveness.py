"""Whether the writer of a ring lives: it holds a lock on the ring's file for as long as it does.

A process id says nothing to a reader in another container: there it means another process, or none.
The kernel lets go of a lock whichever way its holder ends, and shows it to whoever sees the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_held: set[int] = set()


def hold(path: Path) -> int:
    """Lock a file for as long as this process lives, or until `let_go`.

    Children do not hold it: neither those that run another program nor those that are only forked.

    Returns:
        A handle for `let_go`.

    Raises:
        BlockingIOError: If another holds it.
        OSError: If it cannot be opened.
    """
    # A handle of its own, for a lock goes with the last copy of its handle, and mmap makes one.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    _held.add(handle)
    return handle


def let_go(handle: int) -> None:
    """Give up a lock."""
    _held.discard(handle)
    os.close(handle)


def is_held(handle: int) -> bool:
    """Whether another handle than this one, in any process of this host, holds the file's lock.

    Args:
        handle: Of the file, open for reading.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False


def is_held_at(path: Path) -> bool:
    """Likewise of a file by its name; of one that is not there, or cannot be read, nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return is_held(handle)
    finally:
        os.close(handle)


def _forget_in_child() -> None:
    """A forked child shares its parent's locks until it closes them."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
