"""Polls ``/v1/loads`` of servers whose agent is silent."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog

from voltana.serving.router.keys import API_KEY_VARIABLE, REFUSED
from voltana.serving.router.reports import LOADS, Report
from voltana.values import InstanceState, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.ports import TimeSource
    from voltana.serving.router.ledger import Ledger
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.reports import Reports

SILENT_AFTER_FAILURES = 20
"""Servers older than 0.5.8 have no such page: they are asked once a minute from then on."""

RARE_PERIOD_S = 60.0
TIMEOUT_S = 1.0


class LoadsPoller:
    """Turns the loads of one server into reports.

    Args:
        backend: The server.
        session: HTTP client.
        reports: Where reports go.
        ledger: Reconciled with each report.
        time: Time source.
        period_s: Time between two polls.
        headers: Of each question: the server's key.
    """

    def __init__(
        self,
        backend: Backend,
        session: aiohttp.ClientSession,
        *,
        reports: Reports,
        ledger: Ledger,
        time: TimeSource,
        period_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self._session = session
        self._reports = reports
        self._ledger = ledger
        self._time = time
        self._period_s = period_s
        self._headers = headers or {}
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
        self._failures += 1
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, OSError):
            async with self._session.get(
                self._backend.url + "/v1/loads",
                params={"include": "core,queues,disagg"},
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as reply:
                if reply.status != 200:
                    self._note_refusal(reply.status)
                    return
                self._refused = False
                answer = await reply.json()
            state = state_of(_listed(answer), self._backend.role)
            self._reports.put(
                self._backend.name, Report(state=state, sampled_s=asked_s, source=LOADS)
            )
            self._ledger.reconcile(self._backend.name, asked_s)
            self._failures = 0

    def _note_refusal(self, status: int) -> None:
        if status in REFUSED and not self._refused:
            self._refused = True
            self._log.warning(
                "the server refuses this router's key: its load is not known, and requests cannot "
                f"be aborted there. Set router.api_key_file, or {API_KEY_VARIABLE}",
                status=status,
            )


def _listed(answer: Any) -> list[dict[str, Any]]:
    """The loads in an answer.

    Raises:
        ValueError: If it has another form.
    """
    loads = answer.get("loads") if isinstance(answer, dict) else None
    if not isinstance(loads, list):
        raise ValueError(f"unknown form of loads: {answer!r:.100}")  # noqa: TRY004
    return loads


def state_of(loads: list[dict[str, Any]], role: Role) -> InstanceState:
    """The state of an instance from the loads of all its data-parallel ranks.

    Args:
        loads: As ``/v1/loads`` lists them.
        role: The role of the instance.

    Raises:
        ValueError: If they have another form.
    """
    try:
        running = sum(int(load["num_running_reqs"]) for load in loads)
        waiting = sum(int(load["num_waiting_reqs"]) for load in loads)
        used = sum(int(load.get("num_active_tokens") or load["num_used_tokens"]) for load in loads)
        queued = sum(int(load.get("num_waiting_uncached_tokens", 0)) for load in loads)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unknown form of loads: {error!r}") from error
    return InstanceState(
        running_requests=running,
        kv_tokens=used,
        queued_requests=waiting,
        queued_tokens=queued if role is Role.PREFILL else 0,
        clock_mhz=math.nan,
    )
