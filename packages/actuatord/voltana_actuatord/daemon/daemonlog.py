"""Log lines of the daemon: to standard error, where the service manager keeps them, at a bound.

A reader that stands still, or a disk that is full, must not keep a clock locked: lines are written
without ever waiting, and those that cannot be are dropped and counted.
"""

from __future__ import annotations

import time

from voltana_actuatord.stderr import drop_line, write_line

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
        """Write one line if that does not wait."""
        now_s = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now_s - self._at_s) * LINES_PER_S) - 1.0
        self._at_s = now_s
        if self._allowance < 0.0:
            self._allowance = 0.0
            self._dropped += 1
            drop_line()
            return
        more = f" ({self._dropped} lines left out)" if self._dropped else ""
        line = "".join(c if c.isprintable() else "?" for c in text)[:500]
        if write_line(f"voltana-actuatord {self._name}: {line}{more}\n".encode()):
            self._dropped = 0
        else:
            self._dropped += 1
