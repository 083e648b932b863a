"""Connecting to the daemon, and waiting for a place in its queue where many knock at once."""

from __future__ import annotations

import socket
import struct


def connect(path: str, limit_s: float) -> socket.socket:
    """A connection to the daemon; later calls on it wait for as long at most.

    The kernel waits here: Python's own time-outs make a socket that gives up at once when the queue
    is full, which a crowd of strangers can see to.

    Args:
        path: Where it listens.
        limit_s: How long to wait.

    Raises:
        OSError: If nobody listens there, or no place was free in time.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        limit = struct.pack("@ll", int(limit_s), int(1e6 * (limit_s % 1.0)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.connect(path)
        sock.settimeout(limit_s)
    except OSError:
        sock.close()
        raise
    return sock
