"""The event loop of serving's processes; in a rehearsal its time runs at the rehearsal's pace.

Every wait of an agent or a router (a time-out, a heartbeat, a pause between two tries) is a timer
of its event loop, so that one loop with another idea of a second dilates all of them.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, TypeVar

from voltana_actuatord.timebase import time_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


class PacedLoop(asyncio.SelectorEventLoop):
    """An event loop in which `factor` seconds pass in one of the wall's.

    Args:
        factor: Seconds of its time in one of the wall's.
    """

    def __init__(self, factor: float) -> None:
        self._pace = factor
        super().__init__(_PacedSelector(factor))

    def time(self) -> float:
        """Its time, that of `voltana_actuatord.timebase.MonotonicTime` in this process."""
        return time.monotonic() * self._pace


class _PacedSelector(selectors.EpollSelector):
    """Waits for as long on the wall as a time-out of the loop means."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        return super().select(None if timeout is None else timeout / self._factor)


def run_paced(job: Coroutine[Any, Any, T], usual: Callable[[], asyncio.AbstractEventLoop]) -> T:
    """Run to the end.

    Args:
        job: What to run.
        usual: Makes the loop of production, where the wall's time passes.
    """
    factor = time_factor()
    made = usual if factor == 1.0 else lambda: PacedLoop(factor)
    with asyncio.Runner(loop_factory=made) as runner:
        return runner.run(job)
