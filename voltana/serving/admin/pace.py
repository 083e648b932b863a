"""Takes requests of those who have shown no token few at a time, whoever asks how often.

Each is cheap, and as many as a few connections can send would keep the process from everything
else: an answer of figures takes a millisecond of the loop that serves clients.
"""

from __future__ import annotations

import asyncio
import math

PER_S = 100.0
"""Scrapers and probes ask a few times a second."""

AT_ONCE = 8
"""So many need not wait, if as many have not come lately."""

LONGEST_S = 0.64
"""Nobody waits longer: as many connections as stay open (`door.MOST_OPEN`), one after the other."""


class Pace:
    """The line of one listener."""

    def __init__(self) -> None:
        self._due_s = -math.inf

    async def turn(self) -> None:
        """Wait for one's turn."""
        now_s = asyncio.get_running_loop().time()
        due_s = max(self._due_s, now_s - AT_ONCE / PER_S) + 1.0 / PER_S
        # Those who have left the line keep nobody who comes later from it.
        self._due_s = min(due_s, now_s + LONGEST_S)
        if self._due_s > now_s:
            await asyncio.sleep(self._due_s - now_s)
