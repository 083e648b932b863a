"""Structured logs, one JSON object a line."""

from __future__ import annotations

import logging

import structlog

from voltana.serving.log_file import log_file


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write logs to standard error, where service managers keep them.

    Args:
        level: Lines below it are left out.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(log_file()),
        cache_logger_on_first_use=False,
    )
