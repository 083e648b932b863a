"""What the tests of all our distributions share: logging that is left as it was, and a token.

The token opens the administration of what they start, so that none is made in the user's folder.
"""

from __future__ import annotations

import os
import secrets
import signal

import pytest
import structlog

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts tests in the background has them ignore it, and what they start with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["VOLTANA_ADMIN_TOKEN"] = secrets.token_urlsafe(32)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Begins and ends with structlog's own configuration, whoever has changed the global one.

    A command that a fixture of a whole module runs configures it before the first test, and
    structlog.testing itself leaves it changed.
    """
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
