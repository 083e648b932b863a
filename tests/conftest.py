"""What all tests share: Hypothesis profiles, and the command line.

Choose a profile with HYPOTHESIS_PROFILE; where CI is set it is ci.
default is for the local check, ci repeats the same examples in every run, slow is for the long
property runs. None has a deadline: the machines that run this are shared.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest
import structlog
from hypothesis import HealthCheck, settings

TOO_SLOW = (HealthCheck.too_slow,)
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that some commands handle themselves."""

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


@pytest.fixture
def voltana(monkeypatch, capsys):
    """Run the command in this process; gives exit code, standard output and standard error."""
    from voltana.cli import main as cli

    handled = {number: signal.getsignal(number) for number in ENDS}

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["voltana", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    yield run
    for number, handler in handled.items():
        signal.signal(number, handler)
    structlog.reset_defaults()
