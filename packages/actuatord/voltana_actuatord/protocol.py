"""Messages between a client and the actuator daemon: versioned, bounded, one a datagram.

The transport is a Unix socket of type SOCK_SEQPACKET, which keeps message boundaries. A message is
a header (magic, version, kind) and a body: a fixed struct on the control path, a small JSON object
elsewhere. Decoding accepts exactly what encoding produces; anything else is a `ProtocolError`.

A command carries a sequence number that the control loop increases with every completed step. It is
the heartbeat: no other message renews a lease, and a number that does not advance renews nothing.
"""

from __future__ import annotations

import enum
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from voltana_actuatord.errors import ActuatorError
from voltana_actuatord.gpu_names import NO_INDEX, uuid_problem

if TYPE_CHECKING:
    import socket

VERSION = 1
MAX_BYTES = 16_384
MAX_TEXT = 400
MAX_DEVICES = 64
MAX_CLOCK_MHZ = 1e5
MAX_LEASE_S = 3600.0
MAX_DIGITS = 20
"""Numbers are bounded where they are read: no arithmetic meets one that it cannot bear."""

DEFAULT_SOCKET = "/run/voltana/actuator.sock"
DEFAULT_STATE_DIR = "/var/lib/voltana"
DEFAULT_CLAIMS_DIR = "/run/voltana"

_HEADER = struct.Struct("<2sBB")
_COMMAND = struct.Struct("<Qdd")
_ACK = struct.Struct("<QddB")
_MAGIC = b"VA"
_MAX_SEQUENCE = 2**63


class ProtocolError(ActuatorError):
    """A peer sent something that the protocol does not allow."""


class Kind(enum.IntEnum):
    """Kinds of message; those below 64 go to the daemon."""

    ACQUIRE = 1
    COMMAND = 2
    RELEASE = 3
    QUERY = 4
    RESTORE = 5
    GRANTED = 64
    ACK = 65
    REFUSED = 66
    REVOKED = 67
    STATUS = 68
    RESTORED = 69


_EMPTY = frozenset({Kind.RELEASE, Kind.QUERY, Kind.RESTORE})
_HEADERS = {kind: _HEADER.pack(_MAGIC, VERSION, kind) for kind in Kind}
_KINDS = {int(kind): kind for kind in Kind}
_COMMAND_HEADER = _HEADERS[Kind.COMMAND]
_COMMAND_BYTES = _HEADER.size + _COMMAND.size


@dataclass(frozen=True, slots=True)
class Acquire:
    """Ask for the lease of a clock domain, whose GPUs are named by UUID."""

    domain: str
    devices: tuple[str, ...]
    lease_s: float


class SetClock(NamedTuple):
    """Ask for a clock, as step number `sequence` of the control loop."""

    sequence: int
    clock_mhz: float
    lease_s: float


@dataclass(frozen=True, slots=True)
class Ack:
    """What a command achieved, after settling.

    Attributes:
        sequence: The command.
        target_mhz: What it asked for.
        clock_mhz: What was read back; the slowest device of the domain.
        explained: Whether a slower clock has a reason such as the power cap.
        note: Why the clock is not the target, or empty.
    """

    sequence: int
    target_mhz: float
    clock_mhz: float
    explained: bool = True
    note: str = ""


def encode_command(sequence: int, clock_mhz: float, lease_s: float) -> bytes:
    """A `SetClock` as bytes; the only encoder on the caller's path."""
    return _COMMAND_HEADER + _COMMAND.pack(sequence, clock_mhz, lease_s)


def encode_ack(ack: Ack) -> bytes:
    """An `Ack` as bytes."""
    body = _ACK.pack(ack.sequence, ack.target_mhz, ack.clock_mhz, ack.explained)
    return _HEADERS[Kind.ACK] + body + ack.note[:MAX_TEXT].encode()


def encode_acquire(acquire: Acquire) -> bytes:
    """An `Acquire` as bytes."""
    return encode_json(
        Kind.ACQUIRE,
        {
            "domain": acquire.domain,
            "devices": list(acquire.devices),
            "lease_s": acquire.lease_s,
        },
    )


def encode_json(kind: Kind, body: dict[str, Any]) -> bytes:
    """A message with a JSON body as bytes; texts are cut rather than sent too long."""
    data = _HEADERS[kind] + json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise ProtocolError(f"{kind.name} would be {len(data)} bytes, at most {MAX_BYTES} allowed.")
    return data


def encode_empty(kind: Kind) -> bytes:
    """A message without a body as bytes."""
    return _HEADERS[kind]


def is_command(data: bytes) -> bool:
    """Whether a message is a whole COMMAND, which is looked at before all others."""
    return len(data) == _COMMAND_BYTES and data.startswith(_COMMAND_HEADER)


def kind_of(data: bytes) -> Kind:
    """The kind of a message.

    Raises:
        ProtocolError: If it is too short, too long, of another protocol or another version.
    """
    if len(data) < _HEADER.size or len(data) > MAX_BYTES:
        raise ProtocolError(
            f"a message of {len(data)} bytes; {_HEADER.size}-{MAX_BYTES} are allowed."
        )
    magic, version, number = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ProtocolError("not a message of this protocol.")
    if version != VERSION:
        raise ProtocolError(
            f"protocol version {version}; this side speaks {VERSION}. Update the older side."
        )
    kind = _KINDS.get(number)
    if kind is None:
        raise ProtocolError(f"message kind {number} does not exist.")
    if kind in _EMPTY and len(data) != _HEADER.size:
        raise ProtocolError(f"{kind.name} has no body.")
    return kind


def decode_command(data: bytes) -> SetClock:
    """The body of a COMMAND.

    Raises:
        ProtocolError: If its size is wrong or a number is impossible.
    """
    if len(data) != _COMMAND_BYTES:
        raise ProtocolError(f"a COMMAND of {len(data)} bytes.")
    sequence, clock_mhz, lease_s = _COMMAND.unpack_from(data, _HEADER.size)
    if sequence >= _MAX_SEQUENCE:
        raise ProtocolError(f"sequence {sequence} is above {_MAX_SEQUENCE - 1}.")
    if not 0 < clock_mhz <= MAX_CLOCK_MHZ:
        raise ProtocolError(
            f"clock_mhz = {clock_mhz}; a positive number is needed, {MAX_CLOCK_MHZ:g} at most."
        )
    if not 0 < lease_s < math.inf:
        raise ProtocolError(f"lease_s = {lease_s}; a positive number is needed.")
    lease_s = min(lease_s, MAX_LEASE_S)
    return SetClock(sequence, clock_mhz, lease_s)


def decode_ack(data: bytes) -> Ack:
    """The body of an ACK.

    Raises:
        ProtocolError: If its size is wrong or a number is impossible.
    """
    start = _HEADER.size
    if len(data) < start + _ACK.size:
        raise ProtocolError(f"an ACK of {len(data)} bytes.")
    sequence, target_mhz, clock_mhz, explained = _ACK.unpack_from(data, start)
    possible = 0 < target_mhz <= MAX_CLOCK_MHZ and 0 <= clock_mhz <= MAX_CLOCK_MHZ
    if sequence >= _MAX_SEQUENCE or not possible:
        raise ProtocolError(f"an ACK of step {sequence} with {clock_mhz} of {target_mhz} MHz.")
    note = data[start + _ACK.size :].decode(errors="replace")
    return Ack(sequence, target_mhz, clock_mhz, bool(explained), note)


def decode_acquire(data: bytes) -> Acquire:
    """The body of an ACQUIRE.

    Raises:
        ProtocolError: If a field is missing, unknown, or of the wrong type or size.
    """
    body = decode_json(data)
    if body.keys() != {"domain", "devices", "lease_s"}:
        raise ProtocolError("ACQUIRE needs exactly domain, devices and lease_s.")
    domain, devices, lease_s = body["domain"], body["devices"], body["lease_s"]
    valid = isinstance(domain, str) and domain.isascii() and domain.isprintable()
    if not valid or not 0 < len(domain) <= 64:
        raise ProtocolError("domain must be a printable ASCII name of 1-64 characters.")
    if not isinstance(lease_s, (int, float)) or isinstance(lease_s, bool):
        raise ProtocolError("lease_s must be a number of seconds.")
    if not 0 < lease_s < math.inf:
        raise ProtocolError("lease_s must be a positive number of seconds.")
    return Acquire(domain, decode_devices(devices), min(float(lease_s), MAX_LEASE_S))


def decode_devices(devices: object) -> tuple[str, ...]:
    """A list of GPUs by UUID, each once; an index, as older clients send it, is refused.

    Raises:
        ProtocolError: If it is anything else.
    """
    if not isinstance(devices, list) or not 0 < len(devices) <= MAX_DEVICES:
        raise ProtocolError(f"devices must be a list of 1-{MAX_DEVICES} UUIDs of GPUs.")
    for name in devices:
        if type(name) is int:
            raise ProtocolError(
                f"devices names GPU {name} by index, as older clients do. {NO_INDEX} Update "
                "voltana-actuatord on the client's side."
            )
        if problem := uuid_problem(name):
            raise ProtocolError(f"devices: {problem}")
    if len(set(devices)) != len(devices):
        raise ProtocolError("devices names a GPU twice.")
    return tuple(sorted(devices))


def receive(sock: socket.socket) -> bytes:
    """The next message, also one that was sent before the connection was reset.

    A Unix socket that is closed with something unread resets its peer, and reports that to it once
    before what was still on the way, which may be the reason for closing.

    Raises:
        OSError: If there is nothing to read.
    """
    try:
        return sock.recv(MAX_BYTES)
    except ConnectionResetError:
        return sock.recv(MAX_BYTES)


def decode_json(data: bytes) -> dict[str, Any]:
    """The JSON body of a message.

    Raises:
        ProtocolError: If it is not a JSON object.
    """
    try:
        body = json.loads(
            data[_HEADER.size :].decode(), parse_int=_bounded_int, object_pairs_hook=_named_once
        )
    except (ValueError, RecursionError):
        raise ProtocolError("the body is not JSON.") from None
    if not isinstance(body, dict):
        raise ProtocolError("the body is not a JSON object.")
    return body


def decode_granted(body: dict[str, Any]) -> tuple[tuple[float, ...], float]:
    """What a GRANTED says: clocks in MHz, ascending, and the lease in seconds.

    Raises:
        ProtocolError: If a number is missing or impossible.
    """
    table, lease_s = body.get("table_mhz"), body.get("lease_s")
    numbers = [*table, lease_s] if isinstance(table, list) and table else [None]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ProtocolError(f"a GRANTED with {number!r:.40} for a number.")
        if not 0 < number <= MAX_CLOCK_MHZ:
            raise ProtocolError(f"a GRANTED with the impossible number {number!r:.40}.")
    return tuple(sorted(map(float, table or ()))), min(float(lease_s or 0.0), MAX_LEASE_S)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two values for one, readers take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _bounded_int(digits: str) -> int:
    """A whole number that fits 64 bits and some; longer ones are no numbers of this protocol."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
