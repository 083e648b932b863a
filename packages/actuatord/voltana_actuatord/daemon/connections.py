"""The client connections of the actuator daemon: who they are, and bounded reading and writing."""

from __future__ import annotations

import array
import socket
import struct

from voltana_actuatord.daemon.leases import Peer
from voltana_actuatord.protocol import MAX_BYTES, ProtocolError

_SO_PEERGROUPS = 59
_MAX_GROUPS = 1024
BATCH = 8
"""Messages read from one connection before the others get their turn."""

RATE_PER_S = 2_000.0
BURST = 2_000.0
"""What one connection may send; a control loop sends some hundreds of messages a second."""


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end, from the kernel."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    groups = array.array("i")
    try:
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS))
    except OSError:  # an older kernel, or more groups than anybody has
        groups = array.array("i")
    return Peer(pid, uid, frozenset({gid, *groups}))


_BUFFER = bytearray(MAX_BYTES + 1)
"""What is read, one message at a time; a longer one is cut, and refused for its length."""

_WHOLE = memoryview(_BUFFER)


class Connection:
    """One client. Nothing is buffered here: a reply that does not fit the socket is dropped.

    Args:
        sock: Its socket; made non-blocking.
        key: A number that is never used again.
        peer: Who is at the other end.
        now_s: The time.

    Attributes:
        peer: Who is at the other end.
        dropped: Replies that were not read.
        heard_s: When the client was last heard.
    """

    __slots__ = ("_allowance", "_refilled_s", "dropped", "heard_s", "key", "peer", "sock")

    def __init__(self, sock: socket.socket, key: int, peer: Peer, now_s: float) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.key = key
        self.peer = peer
        self.dropped = 0
        self.heard_s = now_s
        self._allowance = BURST
        self._refilled_s = now_s

    def receive(self) -> bytes | None:
        """The next message; None if there is none.

        Raises:
            ConnectionError: If the client is gone.
        """
        try:
            length = self.sock.recv_into(_BUFFER)
        except (BlockingIOError, InterruptedError):
            return None
        if not length:  # an empty datagram looks the same, and is not a message either
            raise ConnectionResetError
        return bytes(_WHOLE[:length])

    def count_message(self, now_s: float) -> None:
        """Count a message against the client's rate.

        Args:
            now_s: The time.

        Raises:
            ProtocolError: If it sends more than any control loop does.
        """
        earned = (now_s - self._refilled_s) * RATE_PER_S
        self._allowance = min(BURST, self._allowance + earned) - 1.0
        self._refilled_s = self.heard_s = now_s
        if self._allowance < 0.0:
            raise ProtocolError(f"more than {RATE_PER_S:g} messages a second.")

    def send(self, data: bytes) -> None:
        """Send a message if the client reads; never blocks, never raises."""
        try:
            self.sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            self.dropped += 1

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
