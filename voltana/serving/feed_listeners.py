"""Who listens to an agent's feed, and what comes back from them: bounded, whoever they are.

A publisher of ZMQ's own (PUB, XPUB) keeps every topic that a listener names, reads for as long as
one sends, and keeps what nobody has asked for: a stranger had it read for seconds, and keep
gigabytes. So listeners are known one by one (ROUTER and DEALER): each is sent everything, and of
what it says only some is read at a time, in turns with the others, while the rest stays with it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.ports import TimeSource

MOST_LISTENERS = 64
"""Listeners at a time; one that comes when all places are taken is told nothing."""

MOST_SAID_BYTES = 1024
"""A listener says no more at once than what it intends, and before that who it is, which takes a
handshake of some hundred bytes; who says more is cut off unread."""

MOST_PARTS = 128
"""Parts of messages that are read at once; each message of a listener has two."""

_UNREAD_S = 5.0
"""A listener that has taken nothing for so long is forgotten."""

_WATERMARK = 64


def seek_listeners(socket: zmq.Socket[Any]) -> None:
    """Prepare a ROUTER socket for them, before it is bound."""
    socket.setsockopt(zmq.SNDHWM, _WATERMARK)
    socket.setsockopt(zmq.RCVHWM, _WATERMARK)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MOST_SAID_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # says who is gone


def seek_feed(socket: zmq.Socket[Any], most_bytes: int) -> None:
    """Prepare a DEALER socket that listens to a feed, before it is connected.

    Args:
        socket: The socket.
        most_bytes: A longer message ends the connection unread.
    """
    socket.setsockopt(zmq.RCVHWM, 2 * _WATERMARK)
    socket.setsockopt(zmq.SNDHWM, _WATERMARK)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    socket.setsockopt(zmq.PROBE_ROUTER, 1)  # says that it is there, at each connection
    socket.setsockopt(zmq.IMMEDIATE, 1)  # what nobody hears now is not said later


class Listeners:
    """The listeners of one feed.

    Args:
        socket: A ROUTER socket, which the caller binds and closes.
        time: Time source.
    """

    def __init__(self, socket: zmq.Socket[bytes], time: TimeSource) -> None:
        self._socket = socket
        self._time = time
        self._took_s: dict[bytes, float] = {}
        self._parts = 0

    def __len__(self) -> int:
        return len(self._took_s)

    def send(self, raw: bytes) -> None:
        """Send something to all; never blocks, and one that does not read misses it."""
        now_s = self._time.now_s()
        for name, took_s in tuple(self._took_s.items()):
            try:
                self._socket.send(name, zmq.SNDMORE | zmq.NOBLOCK)
                self._socket.send(raw, zmq.NOBLOCK)
            except zmq.Again:  # the next state supersedes this one
                if now_s - took_s > _UNREAD_S:
                    del self._took_s[name]
            except zmq.ZMQError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                del self._took_s[name]  # it is gone
            else:
                self._took_s[name] = now_s

    def said(self) -> Iterator[bytes]:
        """What they said since, as far as it is read at once; never blocks.

        A message of many parts, which no listener sends, is read over many calls and dropped.
        """
        for _ in range(MOST_PARTS):
            try:
                part = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            more = self._socket.getsockopt(zmq.RCVMORE)
            self._parts += 1
            if self._parts == 1:
                if part not in self._took_s and len(self._took_s) < MOST_LISTENERS:
                    self._took_s[part] = self._time.now_s()
            elif self._parts == 2 and not more and part:
                yield part
            if not more:
                self._parts = 0
