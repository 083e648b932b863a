"""Takes turns: many events at once are worked off few at a time, everything else in between.

Whatever thousands of connections send, or do, in one moment is found in one pass of the event loop,
and nothing else is done before the last of it. What comes from clients that have not yet sent one
complete request is therefore worked off some at a pass, and a few more for each event of others: of
a crowd that connects at once, the last would else wait until the first were served twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 4
"""Events of a pass, of some 0.2 ms each."""

FOR_EACH = 3
"""Further events of a pass for each of somebody else: so that most of what is worked off is that of
the many where many come at once, and a known client waits some 0.6 ms more for them."""


class Turns:
    """A line of events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._line: deque[Callable[[], None]] = deque()
        self._left = AT_ONCE
        self._others = 0
        self._passing = False

    def other(self) -> None:
        """Something else was worked off, beside which `FOR_EACH` of these may be."""
        self._others += 1

    def at_once(self) -> bool:
        """Whether an event may be worked off now; counts it as one that is."""
        if self._line or not self._left:
            return False
        self._left -= 1
        self._pass_soon()
        return True

    def later(self, event: Callable[[], None]) -> None:
        """Work an event off when its turn comes."""
        self._line.append(event)
        self._pass_soon()

    def _pass_soon(self) -> None:
        if not self._passing:
            self._passing = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        self._passing = False
        most = self._left = AT_ONCE + FOR_EACH * self._others
        self._others = 0
        while self._line and self._left:
            self._left -= 1
            self._line.popleft()()
        if self._left < most:
            self._pass_soon()
