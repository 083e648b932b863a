"""One HTTP request to one server: what its answer means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from voltana.serving.router.logprobs import payload_of
from voltana.serving.router.problem import JSON_TYPE, Problem, unreachable

if TYPE_CHECKING:
    from voltana.serving.router.pool import Backend

_NOT_FORWARDED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that end at this hop; bodies arrive decompressed and are sent as they are."""

TRANSPORT_ERRORS = (aiohttp.ClientError, ConnectionError, TimeoutError, OSError)
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABORTED_BY_SERVER = 500


def forwarded_headers(headers: Any) -> dict[str, str]:
    """The client's headers that concern the servers."""
    kept = {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
    kept.setdefault("Content-Type", JSON_TYPE)
    return kept


def refused(backend: Backend, status: int, body: bytes, body_type: str) -> Problem:
    """A server answered with an error; its own words are passed on."""
    return Problem(
        status,
        f"backend {backend.name!r} answered {status} without a reason. Look at its log.",
        "backend_error",
        retryable=status in _RETRYABLE,
        retry_after_s=1.0 if status in {429, 503} else None,
        backend=backend.name,
        body=body or None,
        body_type=body_type or JSON_TYPE,
    )


def failed(backend: Backend, error: BaseException) -> Problem:
    """A server could not be reached or broke off before the first token; counts against it."""
    dead = isinstance(error, aiohttp.ClientConnectorError)
    backend.failed(str(error) or type(error).__name__, dead=dead)
    return unreachable(backend.name, error)


def error_in(backend: Backend, event: bytes) -> Problem | None:
    """The error that the first event of a stream may hold, which has status 200 all the same.

    Only failures of the server count, those that another one may not have; a client's own mistake
    is passed on in the stream, as the server wrote it.
    """
    if b'"error"' not in event and b'"abort"' not in event:
        return None
    payload = payload_of(event)
    if not isinstance(payload, dict):
        return None
    error = payload.get("error")
    if isinstance(error, dict):
        message, status = error.get("message"), error.get("code")
    else:
        meta = payload.get("meta_info")
        reason = meta.get("finish_reason") if isinstance(meta, dict) else None
        if not isinstance(reason, dict) or reason.get("type") != "abort":
            return None
        message, status = reason.get("message"), reason.get("status_code")
    if not isinstance(status, int) or status < _ABORTED_BY_SERVER:
        return None
    return Problem(
        status,
        f"backend {backend.name!r} gave up: {message}",
        "backend_error",
        retryable=True,
        backend=backend.name,
    )
