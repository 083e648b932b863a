"""Log lines of the daemon: to standard error, where the service manager keeps them, at a bound."""

from __future__ import annotations

import sys
import time

LINES_PER_S = 10.0
BURST = 50.0


class Log:
    """Writes lines, and drops those beyond a rate so that no client can fill a disk.

    Args:
        name: Who speaks.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._allowance = BURST
        self._at_s = time.monotonic()
        self._dropped = 0

    def __call__(self, text: str) -> None:
        """Write one line."""
        now_s = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now_s - self._at_s) * LINES_PER_S) - 1.0
        self._at_s = now_s
        if self._allowance < 0.0:
            self._allowance = 0.0
            self._dropped += 1
            return
        more = f" ({self._dropped} lines left out)" if self._dropped else ""
        self._dropped = 0
        line = "".join(c if c.isprintable() else "?" for c in text)[:500]
        sys.stderr.write(f"voltana-actuatord {self._name}: {line}{more}\n")
        sys.stderr.flush()
