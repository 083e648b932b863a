"""The daemon's socket: where nobody else can exchange it, and never in another daemon's place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.trust import untrusted
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKLOG = 256
LOOK_S = 0.5
"""How often it is looked whether the socket is still there."""


class ListeningPlace:
    """A place in the file system where this daemon listens, and no other for as long as it lives.

    A lock beside the socket keeps two that start at once from taking what a third has left behind
    from each other.

    Args:
        path: Where.
        mode: Permissions of the socket.
        gid: Its group; None leaves this process's own.

    Attributes:
        listener: The listening socket.

    Raises:
        ActuatorError: If the place cannot be trusted, is taken, or cannot be used.
    """

    def __init__(self, path: Path, mode: int, gid: int | None) -> None:
        self._path = path
        self._mode = mode
        self._gid = gid
        self._looked_s = 0.0
        self._told = ""
        self._lock = -1
        self.listener = self._listen()

    def renewed(self, now_s: float, log: Callable[[str], None]) -> bool:
        """Whether somebody took the socket away, and there is a new one in its place.

        Args:
            now_s: The time; it is looked once in a while.
            log: Called with what the operator should know.
        """
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        if self._stands():
            self._told = ""
            return False
        try:
            listener = self._listen()
        except ActuatorError as error:
            if str(error) != self._told:
                self._told = str(error)
                log(f"nobody can connect any more: {error}")
            return False
        log(f"somebody took {self._path} away: it is made anew.")
        self.listener.close()
        self.listener = listener
        return True

    def leave(self) -> None:
        """Remove the socket, unless it is somebody else's by now."""
        with contextlib.suppress(OSError):
            if self._stands():
                self._path.unlink()

    def _stands(self) -> bool:
        try:
            found = self._path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def _listen(self) -> socket.socket:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._lock < 0:
                self._lock = _lock_beside(self._path)
            _take_place(self._path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            before = os.umask(0o777 & ~self._mode)  # from the start: a chmod could be raced
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            if self._gid is not None and self._path.lstat().st_gid != self._gid:
                os.chown(self._path, -1, self._gid, follow_symlinks=False)
            found = self._path.lstat()
        except OSError as error:
            raise ActuatorError(
                f"socket {self._path} cannot be made: {error.strerror or error}."
            ) from None
        self._inode = (found.st_dev, found.st_ino)
        listener.listen(BACKLOG)
        return listener


def _lock_beside(path: Path) -> int:
    """Take the lock of a place, which this process then has to its end."""
    beside = path.with_name(f"{path.name}.lock")
    if problem := untrusted(path.parent) or untrusted(beside, link_at_end=False):
        raise ActuatorError(
            f"socket {path} is not allowed: {problem}. Choose a place that root alone can write."
        )
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:  # not flock, which a child that cannot be killed would keep
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ActuatorError(
            f"another program listens at {path}, or is about to. Stop that daemon first, "
            "or choose another path."
        ) from None
    return handle


def _take_place(path: Path) -> None:
    if problem := untrusted(path.parent) or untrusted(path, link_at_end=False):
        raise ActuatorError(
            f"socket {path} is not allowed: {problem}. Choose a place that root alone can write."
        )
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise ActuatorError(f"{path} exists and is not a socket. Move it, or choose another path.")
    if _answers(path):
        raise ActuatorError(
            f"another program listens at {path}. Stop that daemon first, or choose another path."
        )
    path.unlink()


def _answers(path: Path) -> bool:
    """Whether somebody listens there; what a daemon that was killed left behind does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}
