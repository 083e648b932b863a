"""What all tests share: Hypothesis profiles.

Choose a profile with HYPOTHESIS_PROFILE; where CI is set it is ci.
default is for the local check, ci repeats the same examples in every run, slow is for the long
property runs. None has a deadline: the machines that run this are shared.
"""

from __future__ import annotations

import os

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
