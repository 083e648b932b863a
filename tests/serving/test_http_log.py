"""What the HTTP server says of requests: a line, and a traceback of its own faults alone."""

from __future__ import annotations

import logging

import pytest
import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from voltana.serving.http_log import LINES, PERIOD_S, HttpLog


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("Connection lost"),
        BrokenPipeError(32, "Broken pipe"),
        BadHttpMessage("no HTTP: b'my-secret'"),
        web.RequestPayloadError("too short"),
    ],
)
def test_of_who_sends_nonsense_or_leaves_there_is_a_line_and_no_traceback(error):
    with structlog.testing.capture_logs() as logs:
        HttpLog().log(logging.ERROR, "Error handling request from %s", "1.2.3.4", exc_info=error)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert not any("exc_info" in line or "my-secret" in str(line) for line in logs)


def test_faults_of_our_own_are_told_whole_and_however_many_by_few_lines():
    now_s = [100.0]
    log = HttpLog(lambda: now_s[0])
    with structlog.testing.capture_logs() as logs:
        for _ in range(3 * LINES):
            log.log(logging.ERROR, "Error handling request", exc_info=KeyError("room"))
        now_s[0] += PERIOD_S
        log.log(logging.ERROR, "Error handling request", exc_info=KeyError("room"))
    assert len(logs) == LINES + 1
    assert all(isinstance(line["exc_info"], KeyError) for line in logs)
    assert logs[-1]["left_out"] == 2 * LINES
