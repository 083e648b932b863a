"""The error that the first event of a stream may hold, though its status was 200."""

from __future__ import annotations

from typing import Any

import orjson

from voltana.serving.router.events import EVENT_END
from voltana.serving.router.problem import LONGEST_ERROR, Problem

_HINT = b'"error"'
"""Stands in every error; in a text its quotes are escaped."""

_DATA = b"data: "
_SERVERS_OWN = 500


def error_in(backend: str, begin: bytes) -> Problem | None:
    """What a server gives up with; retryable if it is its own failure, not the client's mistake.

    Args:
        backend: Name of the server.
        begin: The beginning of its stream, the first event whole.
    """
    event = begin.split(EVENT_END, 1)[0]
    if len(event) > LONGEST_ERROR or _HINT not in event or not event.startswith(_DATA):
        return None
    try:
        told: Any = orjson.loads(event[len(_DATA) :])
    except orjson.JSONDecodeError:
        return None
    error = told.get("error") if isinstance(told, dict) else None
    if not error:
        return None
    parts = error if isinstance(error, dict) else {"message": error}
    status = parts.get("code")
    if type(status) is not int or not 400 <= status < 600:
        status = _SERVERS_OWN
    return Problem(
        status,
        f"backend {backend!r} gave up: {parts.get('message')}",
        "backend_error",
        retryable=status >= _SERVERS_OWN,
        backend=backend,
    )
