"""What can go wrong with a request, and how a client is told, in OpenAI's error format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json"

LONGEST_ERROR = 1 << 18
"""Bytes of an event or answer of a server that may be an error; a longer one is for the client
alone."""

_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Problem(Exception):  # noqa: N818  (an answer to a client, as in RFC 9457)
    """A request ends with an error.

    Args:
        status: HTTP status.
        message: What happened and what to do, for people.
        code: The same for programs.
        retryable: Whether the same request may succeed elsewhere or later.
        retry_after_s: When to try again; sent as ``Retry-After``.
        backend: Name of the server that is to blame; empty if none is.
        body: Answer of the server, passed on as it is instead of a text of ours.
        body_type: Its content type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        backend: str = "",
        body: bytes | None = None,
        body_type: str = JSON_TYPE,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.backend = backend
        self.own_body = body
        self.body_type = body_type

    def fields(self) -> dict[str, Any]:
        """The error object of OpenAI's format."""
        return {
            "message": self.message,
            "type": _TYPES.get(self.status, "server_error"),
            "param": None,
            "code": self.code,
        }

    def body(self) -> bytes:
        """The answer's body."""
        if self.own_body is not None:
            return self.own_body
        return orjson.dumps({"error": self.fields()})

    def event(self) -> bytes:
        """The same inside a stream that has begun; the stream ends with it."""
        return b"data: " + self.body().strip() + b"\n\ndata: [DONE]\n\n"

    def headers(self) -> Mapping[str, str]:
        """Headers of the answer beside its content type."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


class Lost(Problem):
    """A server did not answer, or stopped doing so, before the first token.

    Args:
        backend: Its name.
        error: What happened.
        dead: Nobody listens there.

    Attributes:
        why: What happened, in words.
        dead: Nobody listens there.
    """

    def __init__(self, backend: str, error: BaseException, *, dead: bool = False) -> None:
        self.why = str(error) or type(error).__name__
        self.dead = dead
        super().__init__(
            502,
            f"backend {backend!r} failed before the first token: {self.why}. "
            "Send the request again.",
            "backend_unreachable",
            retryable=True,
            backend=backend,
        )


def broken_off(backend: str, why: str) -> Problem:
    """A server died after tokens had been sent, so nothing can be tried again."""
    return Problem(
        502,
        f"backend {backend!r} broke off during the answer: {why}. "
        "The answer is incomplete; send the request again.",
        "backend_broken_off",
        backend=backend,
    )


_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


def refused(backend: str, status: int, body: bytes, body_type: str) -> Problem:
    """A server answered with an error; its own words are passed on."""
    return Problem(
        status,
        f"backend {backend!r} answered {status} without a reason. Look at its log.",
        "backend_error",
        retryable=status in _RETRYABLE,
        retry_after_s=1.0 if status in {429, 503} else None,
        backend=backend,
        body=body or None,
        body_type=body_type or JSON_TYPE,
    )


def overdue(timeout_s: float) -> Problem:
    """The request was not complete in time."""
    return Problem(
        504,
        f"the request was not complete after {timeout_s:g} s, the limit of this router (timeout_s)."
        " Ask for fewer tokens, or raise the limit.",
        "timeout",
    )
