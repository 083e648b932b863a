"""A leg that runs beside the one that is relayed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Aside:
    """A leg on its own task, until the try ends.

    Nothing but this holds the task, which keeps what it raised and the frames that it was raised
    through: one of those would else hold the task, a cycle for each request that fails.

    Args:
        leg: Runs, and gives its answer as far as anybody wants it.
        over: Called with its task when it has ended, however.
        drain_s: How long it may take to its end where its try was given up.
    """

    __slots__ = ("_drain_s", "_task")

    def __init__(
        self,
        leg: Coroutine[object, object, bytes],
        over: Callable[[asyncio.Task[bytes]], None],
        drain_s: float = 0.0,
    ) -> None:
        self._drain_s = drain_s
        self._task: asyncio.Task[bytes] | None = asyncio.create_task(leg)
        self._task.add_done_callback(over)

    async def content(self) -> bytes:
        """Its answer; giving up waiting does not break it off.

        Raises:
            Problem: If it failed.
            RuntimeError: If its try has ended.
        """
        if self._task is None:
            raise RuntimeError("the try of this leg has ended")
        return await asyncio.shield(self._task)

    def end(self, in_s: float = 0.0) -> asyncio.Task[bytes] | None:
        """Its try has ended: give it up after a while, at once for 0.

        Args:
            in_s: How long it may take to its end; at least its own `drain_s`.

        Returns:
            What goes on until then; None if nothing does.
        """
        task, self._task = self._task, None
        if task is None or task.done():
            return None
        if in_s := max(in_s, self._drain_s):
            asyncio.get_running_loop().call_later(in_s, task.cancel)
            return task
        task.cancel()
        return None
