"""Which daemon has which GPU: locked bytes of one file of the host, wherever daemons' sockets lie.

The file lies in a folder that every daemon of the host names alike (`claims_dir`). A byte for each
UUID is locked for as long as the process lives; nothing is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.trust import untrusted
from voltana_actuatord.errors import ActuatorError
from voltana_actuatord.faults import LeaseRefusedError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "gpus.lock"


class Claims:
    """The claims of this process.

    Args:
        folder: Where the file lies; created with mode 0755 if absent.

    Raises:
        ActuatorError: If it cannot be trusted or used.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if problem := untrusted(folder) or untrusted(path, link_at_end=False):
                raise ActuatorError(
                    f"claims_dir {folder} is not trusted: {problem}. Choose a folder that root "
                    "alone can write, the same for every daemon of the host."
                )
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise ActuatorError(
                f"claims_dir {folder} cannot be used: {error.strerror}. Run the daemon as root, or "
                "name a folder that it may write."
            ) from None

    def claim(self, uuid: str) -> None:
        """Make sure that no other daemon drives a GPU, for as long as this process lives.

        Raises:
            LeaseRefusedError: If another one does.
        """
        try:  # not flock, which a child that cannot be killed would keep
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(uuid))
        except OSError:
            raise LeaseRefusedError(
                f"{uuid} is driven by another voltana-actuatord. Stop it, or leave the GPU to it."
            ) from None

    def release(self, uuid: str) -> None:
        """Leave a GPU to others: the kernel keeps every claim in a list, and looks through it."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(uuid))


def _byte(uuid: str) -> int:
    return int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:7])
