"""The worker's link to its parent: signs of life one way, news of restored GPUs the other."""

from __future__ import annotations

import socket

PING_S = 0.05


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

    def ping(self, now_s: float, hung: int | None) -> None:
        """Give a sign of life if one is due, or name the GPU whose driver call hangs."""
        if now_s >= self.next_ping_s:
            self.next_ping_s = now_s + PING_S
            self.tell("alive" if hung is None else f"hung {hung}")

    def tell(self, message: str) -> None:
        """Send a message; a parent that is stopped misses it, and init looks after that one."""
        try:
            self.sock.send(message.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.gone = True

    def hear(self) -> str:
        """UUID of a GPU that the parent has restored; empty if it said nothing of the kind."""
        try:
            message = self.sock.recv(256)
        except BlockingIOError:
            return ""
        except OSError:
            message = b""
        if not message:
            self.gone = True
        return message.removeprefix(b"restored ").decode() if b" " in message else ""
