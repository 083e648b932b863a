"""The worker's link to its parent: signs of life and requests one way, news of GPUs the other.

A GPU's process is the parent's child; the worker is handed its end of the link to it.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from voltana_actuatord.daemon.linkends import WorkerEnd

PING_S = 0.05
FACTS = "!"
"""In the place of a GPU's name: what follows is what the parent says of itself, as JSON."""

MAX_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What the parent says of a GPU.

    Attributes:
        uuid: The GPU.
        word: ``open`` with a link to its process, ``ready``, ``restoring``, or why it is refused.
        link: The link; None unless it is open.
    """

    uuid: str
    word: str
    link: WorkerEnd | None = None


class ParentLink:
    """One end of a socket pair whose other end the parent holds.

    Args:
        sock: That end; made non-blocking.

    Attributes:
        gone: Whether the parent has died.
        next_ping_s: When the next sign of life is due.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.gone = False
        self.next_ping_s = 0.0

    def ping(self, now_s: float) -> None:
        """Give a sign of life if one is due."""
        if now_s >= self.next_ping_s:
            self.next_ping_s = now_s + PING_S
            self.tell("alive")

    def tell(self, message: str) -> bool:
        """Send a message; whether it is on its way, since a parent that is stopped misses it."""
        try:
            self.sock.send(message.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.gone = True
        return not self.gone

    def hear(self) -> News | None:
        """What the parent says next; None if nothing more."""
        try:
            data, handles, _, _ = socket.recv_fds(self.sock, MAX_BYTES, 4)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data, handles = b"", []
        link = WorkerEnd.of(handles)
        if not data:
            self.gone = True
            return None
        uuid, _, word = data.decode(errors="replace").partition(" ")
        return News(uuid=uuid, word=word, link=link)


def say(sock: socket.socket, uuid: str, word: str, link: WorkerEnd | None = None) -> bool:
    """Tell the worker something of a GPU; whether it could be told."""
    data = f"{uuid} {word}".encode()[:MAX_BYTES]
    with contextlib.suppress(OSError):
        if link is None:
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            socket.send_fds(sock, [data], link.handles(), socket.MSG_DONTWAIT)
        return True
    return False
