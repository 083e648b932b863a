"""Who is at the other end of a connection, as the kernel says: a user of this host, or an address.

Nothing that the other end sends is asked: it might say anything.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import NamedTuple

_SOCK_DIAG = 4
"""NETLINK_SOCK_DIAG, which the socket module does not name."""

_BY_FAMILY, _REQUEST, _ALL = 20, 1, 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=BBBB48sIIII")
"""Of a socket: family and state, its ends, timer and queues, the user."""

_CREDENTIALS = struct.Struct("=iii")
_WAIT_S = 0.05
"""The kernel answers in microseconds."""


class Peer(NamedTuple):
    """Who has a connection.

    Attributes:
        trusted: Whether it is this process's own user, or root.
        name: Names a user of this host, or whoever shares an address; the same for all of its
            connections.
    """

    trusted: bool
    name: str


UNKNOWN = Peer(trusted=False, name="unknown")


def peer_of(handle: int) -> Peer:
    """Who is at the other end of a socket, which stays its owner's.

    Args:
        handle: Its file descriptor; where that is none any more, nobody is known.
    """
    try:
        with socket.socket(fileno=os.dup(handle)) as ours:
            if ours.family == socket.AF_UNIX:
                raw = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                return _user(_CREDENTIALS.unpack(raw)[1])
            theirs = ours.getpeername()
            user = _owner(ours.family, theirs, ours.getsockname())
            return _address(theirs[0]) if user is None else _user(user)
    except (OSError, ValueError):
        return UNKNOWN


def _user(number: int) -> Peer:
    return Peer(trusted=number in {0, os.geteuid()}, name=f"user {number}")


def _address(text: str) -> Peer:
    """An address; of IPv6 the network of 64 bits, all of which one host may have."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    bits = 64 if address.version == 6 else 32
    return Peer(trusted=False, name=f"{ipaddress.ip_network((address, bits), strict=False)}")


def _owner(family: int, theirs: tuple[object, ...], ours: tuple[object, ...]) -> int | None:
    """The user whose TCP socket of this host goes from there to here; None if there is none.

    The kernel looks that one socket up: the list of all of them takes long where a flood is.
    """
    ends = struct.pack("!HH", theirs[1], ours[1]) + b"".join(
        socket.inet_pton(family, str(end[0]).partition("%")[0]).ljust(16, b"\0")
        for end in (theirs, ours)
    )
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL)
    question += ends + struct.pack("=III", 0, _ALL, _ALL)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(_WAIT_S)
            length = _HEADER.size + len(question)
            kernel.send(_HEADER.pack(length, _BY_FAMILY, _REQUEST, 0, 0) + question)
            said = kernel.recv(4096)
    except OSError as error:  # a container may forbid it
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise
        return None
    if len(said) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(said)[1] != _BY_FAMILY:
        return None
    return int(_ANSWER.unpack_from(said, _HEADER.size)[-1])
