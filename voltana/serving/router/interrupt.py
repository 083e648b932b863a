"""Ends what a task waits for, for a reason that is known elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from voltana.serving.router.problem import Problem


class Interrupt:
    """A block that others can leave for the task that runs it; works as `asyncio.timeout` does.

    One mechanism for deadlines, for the failure of the other leg and for an ejected server. A
    cancellation from outside passes through as such.
    """

    __slots__ = ("_before", "_over", "_problem", "_task", "_timer")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._problem: Problem | None = None
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Interrupt:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("Interrupt needs a running task")
        self._task = task
        self._before = task.cancelling()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._problem is None or self._task is None:
            return
        if self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise self._problem from error

    @property
    def over(self) -> bool:
        """Whether the block has been left."""
        return self._over

    def raise_inside(self, problem: Problem) -> None:
        """Leave the block with `problem`; the first one counts, and none once it is left."""
        if self._over or self._problem is not None or self._task is None:
            return
        if asyncio.current_task() is self._task:
            # It found the failure itself, and is about to raise it: a cancellation now would only
            # strike after the block.
            return
        self._problem = problem
        self._task.cancel()

    def due(self, in_s: float, problem: Problem) -> None:
        """Leave the block with `problem` when `in_s` seconds have passed; replaces what was due."""
        if self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, in_s), self.raise_inside, problem)
