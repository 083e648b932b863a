"""The bell: a FIFO through which a writer wakes the reader of its records."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def open_bell(path: Path) -> int:
    """Open the FIFO for both ends, so that neither side waits for the other or ends with it.

    Raises:
        OSError: If it cannot be made, or the file there is no FIFO.
    """
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileExistsError(f"{path} is not a FIFO: remove it")
    return handle
