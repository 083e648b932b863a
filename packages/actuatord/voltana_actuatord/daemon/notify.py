"""What systemd wants to hear (sd_notify(3)), without its library."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Tell the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(message.encode(), address)


def watchdog_period_s() -> float:
    """How often ``WATCHDOG=1`` is due: a third of the limit; 0 if there is no watchdog."""
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
    except ValueError:
        return 0.0
