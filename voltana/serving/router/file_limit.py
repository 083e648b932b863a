"""How many connections this process may hold.

Each request takes three sockets: its client's, and one to each server. The usual soft limit of
1,024 files is spent by some hundred requests, and what fails then looks like failing servers.
"""

from __future__ import annotations

import resource

import structlog

FILES_PER_REQUEST = 3
OTHER_FILES = 128


def allow_requests(max_in_flight: int, unfinished: int = 0) -> None:
    """Raise the soft limit as far as so many open requests need; warn if it may not be.

    Args:
        max_in_flight: Requests that may be open.
        unfinished: Connections that may be without one.
    """
    wanted = FILES_PER_REQUEST * max_in_flight + unfinished + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    allowed = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        structlog.get_logger("voltana.router").warning(
            "open files are limited below what max_in_flight needs: raise the hard limit (ulimit "
            "-Hn, LimitNOFILE) or lower max_in_flight",
            limit=allowed,
            needed=wanted,
        )
