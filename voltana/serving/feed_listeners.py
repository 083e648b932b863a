"""Who listens to an agent's feed, and what comes back from them: bounded, whoever they are.

A publisher of ZMQ's own (PUB, XPUB) keeps every topic that a listener names, reads for as long as
one sends, and keeps what nobody has asked for: a stranger had it read for seconds, and keep
gigabytes. So listeners are known one by one (ROUTER and DEALER): each is sent everything, and of
what it says only some is read at a time, in turns with the others, while the rest stays with it.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq

from voltana.serving.feed_crowd import Crowd
from voltana.serving.peers import UNKNOWN, peer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.ports import TimeSource
    from voltana.serving.peers import Peer

MOST_LISTENERS = 64
"""Listeners at a time; one that comes when all places are taken, and has no better claim to one
than those who have them (`Listeners`), is told nothing."""

MOST_NEWCOMERS = 16
"""The kernel is asked about no more at once; it takes some 20 microseconds for each."""

_MOST_REFUSED = 4096
"""Of those who were told nothing it is kept who they are: one who says much costs little."""

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


@dataclass(slots=True)
class _Place:
    """The place of a listener.

    Attributes:
        peer: Who has it.
        handle: File of the connection.
        took_s: When something was last taken there.
    """

    peer: Peer
    handle: int
    took_s: float


class Listeners:
    """The listeners of one feed.

    Where all places are taken, the agent's own user and root come before all others; among equals
    whoever has fewer places takes one of who has most, the latest. So a stranger who takes them all
    keeps no router out, nor does one address another.

    Args:
        socket: A ROUTER socket, bound, which the caller closes.
        time: Time source.
    """

    def __init__(self, socket: zmq.Socket[bytes], time: TimeSource) -> None:
        self._socket = socket
        self._time = time
        self._places: dict[bytes, _Place] = {}
        self._refused: dict[bytes, Peer] = {}
        self._crowd = Crowd(socket.getsockopt_string(zmq.LAST_ENDPOINT), time.now_s)
        self._parts = 0

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Look at no connections any more."""
        self._crowd.close()

    def send(self, raw: bytes) -> None:
        """Send something to all; never blocks, and one that does not read misses it."""
        now_s = self._time.now_s()
        for name, place in tuple(self._places.items()):
            try:
                self._socket.send(name, zmq.SNDMORE | zmq.NOBLOCK)
                self._socket.send(raw, zmq.NOBLOCK)
            except zmq.Again:  # the next state supersedes this one
                if now_s - place.took_s > _UNREAD_S:
                    del self._places[name]
            except zmq.ZMQError as error:
                if error.errno != errno.EHOSTUNREACH:
                    raise
                del self._places[name]  # it is gone
            else:
                place.took_s = now_s
        self._crowd.sweep({place.handle for place in self._places.values()})

    def said(self) -> Iterator[bytes]:
        """What they said since, as far as it is read at once; never blocks.

        A message of many parts, which no listener sends, is read over many calls and dropped.
        """
        newcomers = 0
        for _ in range(MOST_PARTS):
            if newcomers == MOST_NEWCOMERS:
                return
            try:
                part = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._parts += 1
            if self._parts == 1:
                newcomers += self._comes(part)
            elif self._parts == 2 and not part.more and part.bytes:
                yield part.bytes
            if not part.more:
                self._parts = 0

    def _comes(self, part: zmq.Frame) -> bool:
        """Give who says something a place; whether the kernel had to be asked who it is."""
        name = part.bytes
        if name in self._places:
            return False
        known, handle = self._refused.pop(name, None), _handle_of(part)
        peer = known or (UNKNOWN if handle < 0 else peer_of(handle))
        if self._has_place_for(peer):
            self._places[name] = _Place(peer, handle, self._time.now_s())
        elif not peer.trusted:  # and no name that may pass to another makes anybody so
            if len(self._refused) == _MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._refused[name] = peer
        return known is None

    def _has_place_for(self, peer: Peer) -> bool:
        """Whether there is a place, or one is made; see `Listeners`."""
        if len(self._places) < MOST_LISTENERS:
            return True
        taken = Counter(place.peer for place in self._places.values())
        most = max(taken, key=lambda other: (not other.trusted, taken[other]))
        before = peer.trusted and not most.trusted
        equal = peer.trusted == most.trusted
        if not (before or (equal and taken[most] > taken[peer] + 1)):
            return False
        del self._places[next(n for n in reversed(self._places) if self._places[n].peer == most)]
        return True


def _handle_of(part: zmq.Frame) -> int:
    """File of the connection that a part of a message came by; -1 where it is gone."""
    try:
        return int(part.get("__fd"))
    except (zmq.ZMQError, ValueError, TypeError):
        return -1
