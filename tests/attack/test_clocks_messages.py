"""Messages to the daemon that were damaged: each is dealt with, refused, or ends its connection."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest

from tests.actuation.driver import uuid_of
from voltana_actuatord.daemon.connections import Connection, peer_of
from voltana_actuatord.daemon.parentlink import ParentLink
from voltana_actuatord.daemon.server import ActuatorServer
from voltana_actuatord.protocol import (
    MAX_BYTES,
    Acquire,
    Kind,
    ProtocolError,
    encode_acquire,
    encode_command,
    encode_empty,
)

RULE = {
    "uids": [os.geteuid()],
    "gids": [],
    "gpus": None,
    "min_mhz": 0.0,
    "max_mhz": 1e6,
    "max_lease_s": 10.0,
}
CONFIG = {"max_connections": 16, "idle_s": 30.0, "restoring": [], "rules": [RULE]}
HONEST = (
    encode_acquire(Acquire("x", (uuid_of(0),), 1.0)),
    encode_acquire(Acquire("y", tuple(map(uuid_of, range(8))), 0.5)),
    encode_command(7, 1005.0, 1.0),
    *(encode_empty(kind) for kind in (Kind.RELEASE, Kind.QUERY, Kind.RESTORE)),
)
PIECES = (
    b"9" * 400, b"1e999", b"NaN", b"-Infinity", b"null", b"[[[[", b'{"', b"}}", b"\xff",
    b'"\\ud800"', b"\x00", b"true", b"-1", b"0", b",", b'"devices":["GPU-1"]',
    b"\x7f\xf0" + b"\x00" * 6,
)  # fmt: skip


def damaged(chance: random.Random) -> bytes:
    """One message with up to four places that are not as they were."""
    raw = bytearray(chance.choice(HONEST))
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(raw) + 1)
        what = chance.randrange(4)
        if what == 0:
            raw[place : place + chance.randrange(8)] = chance.choice(PIECES)
        elif what == 1:
            raw[place : place + 1] = bytes([chance.randrange(256)])
        elif what == 2:
            raw[4:12] = chance.randbytes(8)
        elif not chance.randrange(8):
            del raw[place:]
    return bytes(raw[: MAX_BYTES + 1])


def fuzz(folder, count: int, seed: int) -> None:
    """Hand messages to a server; whatever comes of one, the next is answered."""
    chance, kept = random.Random(seed), 0
    parent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        parent, theirs, client, ours,
    ):  # fmt: skip
        listener.bind(str(folder / "socket"))
        listener.listen()
        client.setblocking(False)
        server = ActuatorServer(CONFIG, listener, ParentLink(theirs))
        for number in range(count):
            now_s = number * 0.01
            connection = Connection(ours, number, peer_of(ours), now_s)
            with contextlib.suppress(ProtocolError):
                server.message(connection, damaged(chance), now_s)
                kept += 1
            server.gone(connection.key)
            if not number % 64:
                empty(client)
                empty(parent)
        empty(client)
        server.message(Connection(ours, count, peer_of(ours), 0.0), HONEST[4], count * 0.01)
        assert client.recv(MAX_BYTES)[3] == Kind.STATUS
    assert count // 20 < kept < count


def empty(sock: socket.socket) -> None:
    """Read all that has come."""
    try:
        while sock.recv(MAX_BYTES, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        pass


def test_damaged_messages_end_their_connection_at_most(tmp_path):
    fuzz(tmp_path, 10_000, 1)


@pytest.mark.fuzz
def test_a_million_damaged_messages_end_their_connection_at_most(tmp_path):
    fuzz(tmp_path, 1_000_000, 2)
