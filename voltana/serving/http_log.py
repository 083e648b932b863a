"""What the HTTP server has to say of strangers' requests, few lines however many they send.

aiohttp writes a traceback for each request that is no HTTP, as often as anybody sends one: hundreds
of kilobytes a second, and whoever reads the log decides how long the event loop waits. And it holds
the errors in the frames that they were raised through (`frames`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from voltana.serving.frames import let_go
from voltana.timebase import MonotonicTime

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = 10
"""Lines in `PERIOD_S`; those that are left out are counted."""

PERIOD_S = 10.0
LONGEST = 200

_NONSENSE = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
"""Errors of whoever sent the request, or left before its end."""


class HttpLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of an HTTP server.

    Args:
        now_s: Time source.
    """

    def __init__(self, now_s: Callable[[], float] | None = None) -> None:
        super().__init__(logging.getLogger("aiohttp.server"), {})
        self._now_s = now_s or MonotonicTime().now_s
        self._since_s = -PERIOD_S
        self._lines = self._left_out = 0

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line, unless there were too many of late."""
        error = kwargs.get("exc_info")
        try:
            if level > logging.DEBUG and self._may():
                self._write(msg % args if args and isinstance(msg, str) else str(msg), error)
        finally:
            if isinstance(error, BaseException):
                let_go(error)

    def _may(self) -> bool:
        now_s = self._now_s()
        if now_s - self._since_s >= PERIOD_S:
            self._since_s, self._lines = now_s, 0
        self._lines += 1
        self._left_out += self._lines > LINES
        return self._lines <= LINES

    def _write(self, what: str, error: Any) -> None:
        log = structlog.get_logger("voltana.http")
        left_out, self._left_out = self._left_out, 0
        if isinstance(error, _NONSENSE):
            log.warning("a request cannot be read", what=what, why=_why(error), left_out=left_out)
        else:
            log.error(what, exc_info=error, left_out=left_out)


def _why(error: Any) -> str:
    """What is wrong, without what was sent, in which keys may stand."""
    said = str(getattr(error, "message", "") or error).strip()
    return said.partition("\n")[0].partition(": b")[0][:LONGEST]
