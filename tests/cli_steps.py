"""The command line in a process of its own, and the shortest simulation."""

from __future__ import annotations

import subprocess
import sys

QUICK = ("simulate", "--duration", "2", "--rate", "10", "--prefill", "1", "--decode", "1")


def in_process(*args: str, cwd=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voltana", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )
