"""How many connections the router's process may hold."""

from __future__ import annotations

import subprocess
import sys


def test_the_router_may_open_as_many_files_as_its_requests_take() -> None:
    program = (
        "import resource; from voltana.serving.router.file_limit import allow_requests as allow;"
        "limit = lambda: resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000));"
        "allow(10); print(limit()); allow(500); print(limit()); allow(1000); print(limit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("(")] == [
        "(256, 2000)",
        "(1628, 2000)",
        "(2000, 2000)",
    ]
    (warning,) = [line for line in said if "open files are limited" in line]
    assert "needed=3128" in warning
