"""The daemon's socket: where nobody else can exchange it, and never in another daemon's place."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.trust import untrusted
from voltana_actuatord.errors import ActuatorError

if TYPE_CHECKING:
    from pathlib import Path

BACKLOG = 256


def listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    """Bind the socket.

    Args:
        path: Where.
        mode: Its permissions.
        gid: Its group; None leaves this process's own.

    Raises:
        ActuatorError: If the place cannot be trusted, is taken, or cannot be used.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _take_place(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o777 & ~mode)  # right from the start: a chmod could be raced
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if gid is not None and path.lstat().st_gid != gid:
            os.chown(path, -1, gid, follow_symlinks=False)
    except OSError as error:
        raise ActuatorError(f"socket {path} cannot be made: {error.strerror or error}.") from None
    listener.listen(BACKLOG)
    return listener


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
