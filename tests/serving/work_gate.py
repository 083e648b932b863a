"""Work of fake servers that ends when a test lets it, and not when some time has passed."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

PATIENT: dict[str, Any] = {"timeout_s": 60.0}
"""Settings of a router whose requests a test holds: their own time is not up meanwhile."""


class Gate:
    """Stands at the end of each piece of work of a fake server; open unless a test closes it.

    A test that needs a request to be still at work cannot give it a time that is long enough: a
    busy machine comes back to the test when that has passed. So the test closes the gate, goes on
    when the work stands there (`waiting`), and opens it when it has seen what it is about.

    A closed gate makes work longer, and nothing else: whoever is told to stop, leaves or dies ends
    it as before. A piece of work is a whole answer, or one word of a stream.
    """

    def __init__(self) -> None:
        self._lets = math.inf
        self._held: set[asyncio.Event] = set()

    @property
    def is_open(self) -> bool:
        """Whether it lets all work end."""
        return self._lets == math.inf

    @property
    def waiting(self) -> int:
        """Pieces of work that stand before it."""
        return len(self._held)

    def close(self, *, after: int = 0) -> None:
        """Let only so many pieces of work end from now on."""
        self._lets = after

    def open(self) -> None:
        """Let all work end."""
        self._lets = math.inf
        for let_go in self._held:
            let_go.set()
        self._held.clear()

    async def work(self, work_s: float, stop: asyncio.Event | None = None) -> bool:
        """Work for so long at least; false if it was told to stop before it was let go."""
        stop = stop or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(work_s):
                await stop.wait()
        if not stop.is_set():  # else it was told, if only in the moment in which it was done
            await self._passed(stop)
        return not stop.is_set()

    async def _passed(self, stop: asyncio.Event) -> None:
        if self._lets > 0:
            self._lets -= 1
            return
        let_go = asyncio.Event()
        self._held.add(let_go)
        either = [asyncio.create_task(event.wait()) for event in (let_go, stop)]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._held.discard(let_go)
            for one in either:
                one.cancel()
