"""What an operator asks the daemon: its status, and to give clocks back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from voltana_actuatord.connecting import connect
from voltana_actuatord.faults import DaemonUnavailableError, LeaseRefusedError
from voltana_actuatord.protocol import (
    DEFAULT_SOCKET,
    Kind,
    decode_json,
    encode_empty,
    kind_of,
    receive,
)

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_LIMIT_S = 2.0


def daemon_status(socket_path: str | Path = DEFAULT_SOCKET) -> dict[str, Any]:
    """What the daemon says of itself, its GPUs and its leases, as JSON values.

    Raises:
        DaemonUnavailableError: If it does not answer.
        LeaseRefusedError: If this user is in no rule.
    """
    return _ask(str(socket_path), Kind.QUERY)


def restore_all(socket_path: str | Path = DEFAULT_SOCKET) -> tuple[str, ...]:
    """Have the daemon give clocks back: this user's, or everybody's for the daemon's own user.

    Returns:
        UUIDs of the GPUs.

    Raises:
        DaemonUnavailableError: If it does not answer.
        LeaseRefusedError: If this user is in no rule.
    """
    return tuple(_ask(str(socket_path), Kind.RESTORE)["devices"])


def _ask(path: str, kind: Kind) -> dict[str, Any]:
    try:
        with connect(path, ANSWER_LIMIT_S) as sock:
            with contextlib.suppress(ConnectionError):  # turned away: the reason can be read
                sock.send(encode_empty(kind))
            data = receive(sock)
    except OSError as error:
        raise DaemonUnavailableError(
            f"no actuator daemon answers at {path} ({error.strerror or error}). Start "
            "voltana-actuatord (`systemctl start voltana-actuatord`), or give its --socket."
        ) from None
    if not data:
        raise DaemonUnavailableError(f"the daemon at {path} closed the connection. See its log.")
    body = decode_json(data)
    if kind_of(data) is Kind.REFUSED:
        raise LeaseRefusedError(str(body.get("error", "")))
    return body
