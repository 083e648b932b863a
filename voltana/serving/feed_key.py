"""The key that agents and routers share where a feed leaves the host.

The feed's sockets speak CURVE (https://rfc.zeromq.org/spec/26/): encrypted, each connection with
keys of its own, so that nothing can be forged, read or replayed. An agent's permanent key follows
from the shared key and the name of its instance. A router connects to an instance by the public
half, which it derives too: whoever lacks the shared key can neither answer nor ask, and an agent
that listens at another's address is not taken for it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from voltana.errors import invalid
from voltana.serving.secret_file import read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIABLE = "VOLTANA_FEED_KEY"
"""Environment variable that holds the key where no file is named."""

_PURPOSE = b"voltana feed, version 1\0"


class FeedKey:
    """A shared key; it shows itself to nobody.

    Args:
        secret: The key, as all agents and routers have it.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def guard(self, socket: zmq.Socket[Any], instance: str) -> None:
        """Have a publisher of an instance serve those alone who have the key; before it binds."""
        socket.curve_server = True
        socket.curve_secretkey = self._secret_of(instance)

    def seek(self, socket: zmq.Socket[Any], instance: str) -> None:
        """Have a listener accept the agent of an instance alone; before it connects."""
        socket.curve_serverkey = zmq.curve_public(self._secret_of(instance))
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()

    def _secret_of(self, instance: str) -> bytes:
        digest = hmac.new(self._secret, _PURPOSE + instance.encode(), hashlib.sha256).digest()
        return bytes(z85.encode(digest))


def find_feed_key(path: Path | None, environment: Mapping[str, str]) -> FeedKey | None:
    """The key of a file, or else of the environment; None for none.

    Raises:
        ConfigError: If it cannot be read, is open to others, or is too short.
    """
    secret = read_secret("feed_key_file", path, environment, VARIABLE)
    return None if secret is None else FeedKey(secret)


def stays_here(address: str) -> bool:
    """Whether only processes of this host reach an address.

    Args:
        address: A ZMQ address, such as ``tcp://127.0.0.1:5601``.
    """
    if address.startswith(("ipc://", "inproc://")):
        return True
    if not address.startswith("tcp://") or ";" in address:
        return False  # ZMQ takes what stands before a semicolon for the address of this end
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_leaves(field: str, address: str, key: FeedKey | None, *, open_to_all: bool) -> None:
    """Check that a feed that leaves this host has a key, unless the configuration lets it be open.

    Raises:
        ConfigError: If it has none.
    """
    if key is None and not open_to_all and not stays_here(address):
        raise invalid(
            field,
            address,
            "an address of this host while there is no shared key",
            f"Name a file with one line of 32 letters as feed_key_file (or set {VARIABLE}), for "
            "agents and routers alike; feed_open = true does without, for a network on which "
            "everybody is trusted.",
        )
