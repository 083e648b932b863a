"""Asks servers whose agent is silent for their load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from voltana.serving.router.keys import REFUSED
from voltana.serving.router.problem import Problem
from voltana.serving.router.reports import LOADS, Report
from voltana.serving.router.wire import Line

if TYPE_CHECKING:
    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.engine import Engine
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.reports import Reports
    from voltana.serving.router.wire import Wire

SILENT_AFTER_FAILURES = 20
"""Servers that do not tell their load are asked once a minute from then on."""

RARE_PERIOD_S = 60.0
TIMEOUT_S = 1.0


class LoadsPoller:
    """Turns the loads of one server into reports.

    Args:
        backend: The server.
        engine: Knows how it is asked.
        wire: HTTP client.
        reports: Where reports go.
        ledger: Reconciled with each report.
        time: Time source.
        period_s: Time between two polls.
        keys: The servers' keys.
    """

    def __init__(
        self,
        backend: Backend,
        engine: Engine[Any],
        wire: Wire,
        *,
        reports: Reports,
        ledger: Ledger,
        time: TimeSource,
        period_s: float,
        keys: Keys,
    ) -> None:
        self._backend = backend
        self._engine = engine
        self._line = Line(wire=wire, backend=backend, headers=keys.usual(), timeout_s=TIMEOUT_S)
        self._reports = reports
        self._ledger = ledger
        self._time = time
        self._period_s = period_s
        self._variable = keys.names.api_variable
        self._failures = 0
        self._refused = False
        self._log = structlog.get_logger("voltana.router").bind(backend=backend.name)

    async def run(self) -> None:
        """Poll until cancelled, but not while the agent's feed is fresh or the server ejected."""
        while True:
            now_s = self._time.now_s()
            if self._backend.healthy and not self._reports.feed_is_fresh(self._backend.name, now_s):
                await self._poll(now_s)
            gave_up = self._failures >= SILENT_AFTER_FAILURES
            await asyncio.sleep(RARE_PERIOD_S if gave_up else self._period_s)

    async def _poll(self, asked_s: float) -> None:
        try:
            state = await self._engine.load(self._line)
        except (Problem, ValueError) as error:
            self._failures += 1
            if isinstance(error, Problem):
                self._note_refusal(error.status)
            return
        self._failures, self._refused = 0, False
        name = self._backend.name
        self._reports.put(name, Report(state=state, sampled_s=asked_s, source=LOADS))
        self._ledger.reconcile(name, asked_s)

    def _note_refusal(self, status: int) -> None:
        if status in REFUSED and not self._refused:
            self._refused = True
            self._log.warning(
                "the server refuses this router's key: its load is not known, and requests cannot "
                f"be aborted there. Set router.api_key_file, or {self._variable}",
                status=status,
            )
