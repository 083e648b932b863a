"""What the tests of all our distributions share: logging that is left as it was."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Restores structlog's global configuration, which structlog.testing itself leaves changed."""
    before, configured = structlog.get_config(), structlog.is_configured()
    yield
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)
