"""The clients of the actuator daemon: who gets a place, what they send, and who is turned out."""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from typing import TYPE_CHECKING, Protocol

from voltana_actuatord.daemon.connections import BATCH, Connection, peer_of
from voltana_actuatord.daemon.daemonlog import Log
from voltana_actuatord.daemon.turns import TURN_S, Shares
from voltana_actuatord.protocol import Kind, ProtocolError, encode_json, is_command

if TYPE_CHECKING:
    from voltana_actuatord.daemon.admission import Admission
    from voltana_actuatord.daemon.leases import Peer
    from voltana_actuatord.daemon.readers import Readers

DEAF_S = 0.2
"""How long nobody is accepted where the process has no descriptor left."""

CROWD_REST_S = 0.004
"""How long nobody is accepted after a turn in which there was no end of those who came."""

SWEEP_S = 1.0
UNREAD = 64
"""How many replies one may leave unread that asks for more than its share."""

MAX_STRANGERS = 64
STRANGER_TOLD_S = 10.0
"""How often the log says that a user is in no rule."""


class Desk(Protocol):
    """Where what clients say is dealt with."""

    def admits(self, peer: Peer) -> bool:
        """Whether a user may be here at all."""
        ...

    def message(self, connection: Connection, data: bytes, now_s: float) -> None:
        """Take a message; raises `ProtocolError` where the connection is to end."""
        ...

    def gone(self, key: int) -> None:
        """A connection is about to end."""
        ...

    def control(self, key: int) -> tuple[bool, bool]:
        """Whether a connection holds GPUs or is about to, and whether it has proved control."""
        ...


class Clients:
    """Everybody who is connected.

    Args:
        listener: The listening socket; made non-blocking.
        readers: Where sockets are waited for.
        admission: Who gets a place.
        desk: Where messages go.

    Attributes:
        counts: How often what happened, since the worker began.
    """

    def __init__(
        self, listener: socket.socket, readers: Readers, admission: Admission, desk: Desk
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._readers = readers
        self._admission = admission
        self._desk = desk
        self._log = Log("worker")
        self._own_uid = os.geteuid()
        self._connections: dict[int, Connection] = {}
        self._strangers: dict[int, tuple[float, int]] = {}
        self._shares = Shares()
        self._resting: dict[int, float] = {}
        self._next_key = 0
        self.counts = dict.fromkeys(("strangers", "crowded_out", "protocol_errors"), 0)
        self._deaf_until_s = math.inf
        self._swept_s = time.monotonic()
        readers.add(listener, listener)

    def __len__(self) -> int:
        return len(self._connections)

    def all(self) -> list[Connection]:
        """Every connection."""
        return list(self._connections.values())

    def send(self, key: int, data: bytes) -> None:
        """Send a message to a connection, if it is still there."""
        connection = self._connections.get(key)
        if connection is not None:
            connection.send(data)

    def accept(self) -> None:
        """Take in some of those who wait for a place: no crowd of them holds up others."""
        ends_s = time.monotonic() + TURN_S
        while time.monotonic() < ends_s:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    self._be_deaf(DEAF_S)
                return
            try:
                self._place(sock)
            except OSError:
                sock.close()
        self._be_deaf(CROWD_REST_S)

    def _be_deaf(self, seconds: float) -> None:
        """Accept nobody for a while."""
        self._readers.remove(self._listener)
        self._deaf_until_s = time.monotonic() + seconds

    def read(self, connection: Connection) -> None:
        """Take what a client has sent."""
        if connection.key in self._resting:  # it is not read, and only its end is told
            self.drop(connection)
            return
        now_s = time.monotonic()
        try:
            for _ in range(BATCH):
                data = connection.receive()
                if data is None:
                    return
                if is_command(data):
                    self._desk.message(connection, data, now_s)
                    connection.count_message(now_s)  # after it: it is on its way to the driver
                    continue
                connection.count_message(now_s)
                began_s = time.thread_time()
                self._desk.message(connection, data, now_s)
                if self._must_rest(connection, time.thread_time() - began_s):
                    return
        except ProtocolError as error:
            self.counts["protocol_errors"] += 1
            text = f"broke the protocol: {error}"
            self._log(f"pid {connection.peer.pid}, uid {connection.peer.uid} {text}")
            self.turn_out(connection.key, text[:400])
        except OSError:
            self.drop(connection)
        except Exception as error:  # noqa: BLE001  (one client's message must not end the others)
            peer = connection.peer
            self._log(f"pid {peer.pid}, uid {peer.uid} sent what was not foreseen: {error!r:.200}")
            self.drop(connection)

    def next_s(self) -> float:
        """When something is due."""
        return min(self._deaf_until_s, *self._resting.values(), math.inf)

    def tidy(self, now_s: float) -> None:
        """Do what time alone demands."""
        for key in [key for key, until_s in self._resting.items() if until_s <= now_s]:
            del self._resting[key]
            self._readers.heed(self._connections[key].sock)
        if now_s >= self._deaf_until_s:
            self._deaf_until_s = math.inf
            self._readers.add(self._listener, self._listener)
        if now_s - self._swept_s > SWEEP_S:
            self._swept_s = now_s
            for connection in self._admission.idle(self.all(), self._controls, now_s):
                why = "idle for too long. Connect again when there is need."
                self.turn_out(connection.key, why)

    def turn_out(self, key: int, why: str) -> None:
        """End a connection, saying why."""
        connection = self._connections.get(key)
        if connection is not None:
            connection.send(encode_json(Kind.REFUSED, {"error": why}))
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """End a connection."""
        self._desk.gone(connection.key)
        if self._connections.pop(connection.key, None) is not None:
            self._resting.pop(connection.key, None)
            self._readers.remove(connection.sock)
            connection.close()

    def _must_rest(self, connection: Connection, spent_s: float) -> bool:
        """Whether a user has had more than a share of this thread's time, and is made to wait.

        Raises:
            ProtocolError: If he asks for more than he reads.
        """
        now_s = time.monotonic()
        until_s = self._shares.spent(connection.peer.uid, spent_s, now_s)
        if not until_s or connection.key not in self._connections:
            return False
        if connection.dropped > UNREAD:
            raise ProtocolError("more messages a second than it reads answers to.")
        self._readers.ignore(connection.sock)
        self._resting[connection.key] = until_s
        return True

    def _place(self, sock: socket.socket) -> None:
        """Give somebody a place, or turn him away."""
        now_s = time.monotonic()
        peer, others = peer_of(sock), self._connections.values()
        if peer.uid != self._own_uid and not self._desk.admits(peer):
            self.counts["strangers"] += 1
            why = f"uid {peer.uid} is in no [[allow]] rule of the daemon's configuration. Add it."
            self._tell_of_stranger(peer, why, now_s)
            _turn_away(sock, why)
            return
        place, victim = self._admission.must_yield(peer.uid, others, self._has_proved)
        if not place or self._admission.full(peer.uid, others):
            self.counts["crowded_out"] += 1
            why = "too many connections. Close some."
            self._log(f"refused pid {peer.pid}, uid {peer.uid}: {why}")
            _turn_away(sock, why)
            return
        if victim is not None:
            why = "its place was needed for another user. Connect again."
            self.turn_out(victim.key, why)
        self._next_key += 1
        connection = Connection(sock, self._next_key, peer, now_s)
        self._readers.add(sock, connection)
        self._connections[connection.key] = connection

    def _tell_of_stranger(self, peer: Peer, why: str, now_s: float) -> None:
        """Say once in a while that a user is turned away, however often he comes."""
        told_s, times = self._strangers.get(peer.uid, (-math.inf, 0))
        if now_s - told_s < STRANGER_TOLD_S:
            self._strangers[peer.uid] = told_s, times + 1
            return
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        self._strangers[peer.uid] = now_s, 0
        more = f" ({times} times more since it was said last)" if times else ""
        self._log(f"refused pid {peer.pid}, uid {peer.uid}: {why}{more}")

    def _controls(self, connection: Connection) -> bool:
        return self._desk.control(connection.key)[0]

    def _has_proved(self, connection: Connection) -> bool:
        return self._desk.control(connection.key)[1]


def _turn_away(sock: socket.socket, why: str) -> None:
    """Say why to somebody who gets no place, and close."""
    sock.setblocking(False)
    try:
        sock.send(encode_json(Kind.REFUSED, {"error": why}), socket.MSG_NOSIGNAL)
    except OSError:
        pass
    finally:
        sock.close()
