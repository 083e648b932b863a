"""The error that an answer of status 200 may hold: in an event of a stream, or as a whole."""

from __future__ import annotations

from typing import Any

import orjson

from voltana.serving.router.problem import LONGEST_ERROR, Problem
from voltana_sglang.dialect.logprobs import payload_of

ABORTED = "aborted"
"""Code of the problem where a server ended a request and says no status: somebody asked for it."""

_SERVERS_OWN = 500

_HINTS = b'"error"', b'"abort"'
"""One of them stands in every error; in a text their quotes are escaped."""


def error_in(backend: str, event: bytes) -> Problem | None:
    """What a server gives up with; retryable if it is its own failure, not the client's mistake.

    Args:
        backend: Name of the server.
        event: An event of its stream.
    """
    if len(event) > LONGEST_ERROR or not any(hint in event for hint in _HINTS):
        return None
    return _problem(backend, payload_of(event))


def error_in_whole(backend: str, answer: bytes) -> Problem | None:
    """The same for a whole answer, which may be one for each prompt of a batch."""
    if len(answer) > LONGEST_ERROR or not any(hint in answer for hint in _HINTS):
        return None
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    found = (_problem(backend, part) for part in (value if isinstance(value, list) else [value]))
    return next((problem for problem in found if problem is not None), None)


def _problem(backend: str, payload: Any) -> Problem | None:
    error = payload.get("error") if isinstance(payload, dict) else None
    if error:
        told = error if isinstance(error, dict) else {"message": error}
        message, status, other = told.get("message"), told.get("code"), "backend_error"
    else:
        reason = _finish_reason(payload)
        if reason.get("type") != "abort":
            return None
        message, status, other = reason.get("message"), reason.get("status_code"), ABORTED
    text = f"backend {backend!r} gave up: {message}"
    if type(status) is not int or not 400 <= status < 600:
        return Problem(_SERVERS_OWN, text, other, backend=backend)
    again = status >= _SERVERS_OWN
    return Problem(status, text, "backend_error", retryable=again, backend=backend)


def _finish_reason(payload: Any) -> dict[str, Any]:
    """Why a generation ended; empty if it did not."""
    meta = payload.get("meta_info") if isinstance(payload, dict) else None
    reason = meta.get("finish_reason") if isinstance(meta, dict) else None
    return reason if isinstance(reason, dict) else {}
