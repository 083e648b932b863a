"""The error that the first event of a stream may hold, which has status 200 all the same."""

from __future__ import annotations

from typing import Any

from voltana.serving.router.problem import Problem
from voltana_sglang.dialect.logprobs import payload_of

_ABORTED_BY_SERVER = 500


def error_in(backend: str, event: bytes) -> Problem | None:
    """What a server gives up with; retryable if it is its own failure, not the client's mistake.

    Args:
        backend: Name of the server.
        event: The first event of its stream.
    """
    if b'"error"' not in event and b'"abort"' not in event:
        return None
    payload = payload_of(event)
    error = payload.get("error") if isinstance(payload, dict) else None
    if isinstance(error, dict):
        message, status = error.get("message"), error.get("code")
    else:
        reason = _finish_reason(payload)
        if reason.get("type") != "abort":
            return None
        message, status = reason.get("message"), reason.get("status_code")
    if not isinstance(status, int) or not 400 <= status < 600:  # an abort that was asked for
        return None
    return Problem(
        status,
        f"backend {backend!r} gave up: {message}",
        "backend_error",
        retryable=status >= _ABORTED_BY_SERVER,
        backend=backend,
    )


def _finish_reason(payload: Any) -> dict[str, Any]:
    """Why a generation ended; empty if it did not."""
    meta = payload.get("meta_info") if isinstance(payload, dict) else None
    reason = meta.get("finish_reason") if isinstance(meta, dict) else None
    return reason if isinstance(reason, dict) else {}
