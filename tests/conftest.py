"""What all tests share: Hypothesis profiles, and logging that is left as it was.

Choose a profile with HYPOTHESIS_PROFILE; where CI is set it is ci.
default is for the local check, ci repeats the same examples in every run, slow is for the long
property runs. None has a deadline: the machines that run this are shared.
"""

from __future__ import annotations

import os

import pytest
import structlog
from hypothesis import HealthCheck, settings

TOO_SLOW = (HealthCheck.too_slow,)

settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=TOO_SLOW)
settings.register_profile(
    "ci",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=TOO_SLOW,
)
settings.register_profile("slow", max_examples=2000, deadline=None, suppress_health_check=TOO_SLOW)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Restores structlog's global configuration, which structlog.testing itself leaves changed."""
    before, configured = structlog.get_config(), structlog.is_configured()
    yield
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)
