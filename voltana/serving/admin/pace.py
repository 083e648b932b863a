"""Takes requests of those who have shown no token few at a time, whoever asks how often.

Each is cheap, and as many as a few connections can send would keep the process from everything
else: to work figures out takes milliseconds of the loop that serves clients. So those who had to
wait are told what was worked out a moment ago.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PER_S = 100.0
"""Scrapers and probes ask a few times a second."""

AT_ONCE = 8
"""So many need not wait, if as many have not come lately."""

LONGEST_S = 0.64
"""Nobody waits longer: as many connections as stay open (`door.MOST_OPEN`), one after the other."""

FRESH_S = 0.25
"""For how long figures are told again."""


class Pace:
    """The line of one listener."""

    def __init__(self) -> None:
        self._due_s = -math.inf

    async def turn(self) -> bool:
        """Wait for one's turn; whether there was anything to wait for."""
        now_s = asyncio.get_running_loop().time()
        due_s = max(self._due_s, now_s - AT_ONCE / PER_S) + 1.0 / PER_S
        # Those who have left the line keep nobody who comes later from it.
        self._due_s = min(due_s, now_s + LONGEST_S)
        if self._due_s <= now_s:
            return False
        await asyncio.sleep(self._due_s - now_s)
        return True


class ToldAgain:
    """An answer that may be given once more for a moment."""

    def __init__(self) -> None:
        self._told: web.Response | None = None
        self._until_s = -math.inf

    async def answer(
        self, make: Callable[[], Awaitable[web.StreamResponse]], *, again: bool
    ) -> web.StreamResponse:
        """The answer of a moment ago, or a new one.

        Args:
            make: Makes it.
            again: Whether that of a moment ago will do.
        """
        now_s, told = asyncio.get_running_loop().time(), self._told
        if again and told is not None and now_s < self._until_s:
            kind = told.headers["Content-Type"]
            return web.Response(body=told.body, headers={"Content-Type": kind})
        made = await make()
        if isinstance(made, web.Response) and made.status == 200:
            self._told, self._until_s = made, now_s + FRESH_S
        return made
