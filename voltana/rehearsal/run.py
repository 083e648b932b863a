"""One run of a rehearsal: the load, the fault, and a look at everything meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voltana.rehearsal.load import replay
from voltana.rehearsal.priority import going_first
from voltana.serving.event_loop import PacedLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from voltana.plant.workload.trace import Trace
    from voltana.rehearsal.company import Company
    from voltana.rehearsal.faults import Fault
    from voltana.rehearsal.load import Replayed
    from voltana.rehearsal.port import Rehearsed
    from voltana.rehearsal.stage import Stage
    from voltana.serving.launch.supervise import Reports

LEAD_IN_S = 3.0
"""From the start to the trace's first second, rehearsed and simulated: servers idle before they are
used, and what an agent thinks of the demand depends on it."""

_START_S = 0.5

ANSWER_S = 600.0
"""How long an answer may take, in the rehearsal's time."""

_WATCH_S = 1.0
_AFTER_S = 0.5
_TENTHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Serves a trace with everything that was started.

    Attributes:
        stage: The files.
        company: The processes.
        trace: What is served.
        dialect: The engine's.
        factor: Seconds of the rehearsal in one of the wall's.
        fault: What goes wrong meanwhile; None for nothing.
        say: Told what goes on.
    """

    stage: Stage
    company: Company
    trace: Trace
    dialect: Rehearsed
    factor: float
    fault: Fault | None
    say: Reports
    _calls: dict[tuple[float, int, int], None] = field(default_factory=dict)

    @property
    def set_calls(self) -> list[tuple[float, int, int]]:
        """Calls that set a clock, in their order: wall's monotonic seconds, board, MHz."""
        return sorted(self._calls)

    def serve(self, horizon_s: float) -> tuple[Replayed, float]:
        """Serve the trace; what became of its requests, and when it began.

        Args:
            horizon_s: Up to when it goes on at least, for an idle cluster draws power, too.

        Raises:
            VoltanaError: If something ends by itself.
        """
        with (
            going_first(),
            asyncio.Runner(loop_factory=lambda: PacedLoop(self.factor)) as runner,
        ):
            return runner.run(self._serve(horizon_s))

    async def _serve(self, horizon_s: float) -> tuple[Replayed, float]:
        start_s = asyncio.get_running_loop().time() + _START_S
        jobs: list[Coroutine[Any, Any, Any]] = [self._load(start_s, horizon_s)]
        if self.fault is not None:
            jobs.append(self._go_wrong(self.fault, start_s))
        replayed, *_ = await _beside(self._watch(), *jobs)
        self._look()
        return replayed, start_s

    async def _load(self, start_s: float, horizon_s: float) -> Replayed:
        loop, total = asyncio.get_running_loop(), len(self.trace)
        said = 0

        def progress(done: int) -> None:
            nonlocal said
            if done * _TENTHS // total > said:
                said = done * _TENTHS // total
                self.say("load", f"{done} of {total} requests have ended")

        replayed = await replay(
            self.trace, self.company.url, self.dialect,
            start_s=start_s, limit_s=ANSWER_S, progress=progress,
        )  # fmt: skip
        await asyncio.sleep(start_s + horizon_s + _AFTER_S - loop.time())
        return replayed

    async def _go_wrong(self, fault: Fault, start_s: float) -> None:
        await asyncio.sleep(start_s + LEAD_IN_S + fault.at_s - asyncio.get_running_loop().time())
        await asyncio.to_thread(fault.happen, self.stage, self.company)

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_WATCH_S * self.factor)

    def _look(self) -> None:
        """Take the driver's calls before it forgets them, and see whether everything runs."""
        self._calls.update(dict.fromkeys(self.stage.machine.set_calls()))
        self.company.check()


async def _beside(watch: Coroutine[Any, Any, None], *jobs: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all jobs; whatever goes wrong in one of them, or in the watch, ends all."""
    watching: asyncio.Future[Any] = asyncio.ensure_future(watch)
    working: asyncio.Future[list[Any]] = asyncio.gather(*jobs)
    try:
        await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        return await working
    finally:
        for task in (watching, working):
            task.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)
