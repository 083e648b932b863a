"""Ends what a task waits for, for a reason that is known elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from voltana.serving.router.problem import Problem


class Interrupt:
    """A block that others can leave for the task that runs it; works as `asyncio.timeout` does.

    One mechanism for deadlines, for the failure of the other leg and for an ejected server. A
    cancellation from outside passes through as such.
    """

    __slots__ = ("_before", "_due_s", "_fires_s", "_over", "_problem", "_task", "_timer", "_why")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._problem: Problem | None = None
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = self._fires_s = 0.0
        self._why: Callable[[], Problem] | None = None

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
        # Kept here or in this frame, what is raised would hold itself by the frames that it leaves.
        problem, task = self._problem, self._task
        self._problem = self._task = self._why = None
        try:
            if problem is None or task is None:
                return
            if task.uncancel() <= self._before and kind is asyncio.CancelledError:
                raise problem from error
        finally:
            del problem

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

    def due(self, in_s: float, why: Callable[[], Problem]) -> None:
        """Leave the block when `in_s` seconds have passed; replaces what was due.

        Most blocks are left long before, and are due later and later: a timer that is there stays,
        and looks again when it fires.

        Args:
            in_s: When.
            why: Makes the problem; called then.
        """
        if self._over:
            return
        loop = asyncio.get_running_loop()
        self._due_s, self._why = loop.time() + max(0.0, in_s), why
        if self._timer is not None:
            if self._fires_s <= self._due_s:
                return
            self._timer.cancel()
        self._set(loop)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._fires_s = self._due_s
        self._timer = loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._due_s > self._fires_s:
            self._set(loop)
        elif self._why is not None:
            self.raise_inside(self._why())
