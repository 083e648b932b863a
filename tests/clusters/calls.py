"""What tests ask of servers, routers and agents, and how they wait for it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, TypeVar

from voltana.serving.router.settings import RouterTable

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1

Answer = TypeVar("Answer")


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    """Wait until a condition holds; whether it did in time.

    The time is for a machine that is busy with other things: what is tested is that it comes to
    hold, and a test that is about time says so with its own limit.
    """
    ends_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.05)
    return True


def first_that(
    holds: Callable[[Answer], object], read: Callable[[], Answer], timeout_s: float = 60.0
) -> Answer:
    """The first answer that something holds of; the last one where it held of none in time."""
    ends_s = time.monotonic() + timeout_s
    while not holds(answer := read()) and time.monotonic() < ends_s:
        time.sleep(0.05)
    return answer


def admin_headers() -> dict[str, str]:
    """Headers that show the token of the administration."""
    return {"Authorization": f"Bearer {os.environ.get('VOLTANA_ADMIN_TOKEN', '')}"}


def get(url: str, timeout_s: float = 30.0, *, admin: bool = False) -> tuple[int, bytes]:
    """GET: status and body, whatever the status; `admin` shows the token of the administration."""
    request = urllib.request.Request(url, headers=admin_headers() if admin else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return int(reply.status), reply.read()
    except urllib.error.HTTPError as error:
        return int(error.code), error.read()


def administration(url: str, path: str) -> bytes:
    """What the administration answers of a router whose public address is `url`."""
    port = RouterTable(port=int(url.rpartition(":")[2])).administration_port()
    status, body = get(f"http://127.0.0.1:{port}{path}", admin=True)
    assert status == 200, body
    return body


def post(url: str, body: Any, timeout_s: float = 120.0) -> Any:
    """POST JSON: the parsed answer; an error status raises with the body in its text."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: {error.code}: {error.read()[:500]!r}") from None


def is_free(port: int) -> bool:
    """Whether one could listen on a port now, on every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
