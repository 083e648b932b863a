"""What the tests of all our distributions share: logging that is left as it was, and a token.

The token opens the administration of what they start, so that none is made in the user's folder.
"""

from __future__ import annotations

import os
import secrets

import pytest
import structlog

os.environ["VOLTANA_ADMIN_TOKEN"] = secrets.token_urlsafe(32)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Restores structlog's global configuration, which structlog.testing itself leaves changed."""
    before, configured = structlog.get_config(), structlog.is_configured()
    yield
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)
