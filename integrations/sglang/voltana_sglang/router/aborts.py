"""Tells servers to stop working on what nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp

from voltana_sglang.router.http_client import bearer
from voltana_sglang.router.leg import TRANSPORT_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana_sglang.router.attempt import Attempt
    from voltana_sglang.router.pool import Backend

ABORT_TIMEOUT_S = 2.0


class Aborts:
    """Aborts that are under way.

    A closed connection says the same, but SGLang notices that only seconds later.

    Args:
        session: HTTP client.
        api_key: Key for aborts that the router decides on; a client's own come with its own.
    """

    def __init__(self, session: aiohttp.ClientSession, api_key: str | None) -> None:
        self._session = session
        self._own_key = bearer(api_key)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, attempt: Attempt) -> None:
        """Abort the legs of an attempt that are still open, in the background."""
        for backend in attempt.open_legs:
            task = asyncio.create_task(self._abort(backend, attempt, self._own_key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def both_legs(self, attempt: Attempt, key: str | None) -> None:
        """Abort an attempt on a client's behalf.

        Args:
            attempt: What is aborted.
            key: The client's ``Authorization``.
        """
        headers = {} if key is None else {"Authorization": key}
        await asyncio.gather(*(self._abort(leg, attempt, headers) for leg in attempt.legs))

    async def close(self) -> None:
        """Wait for those that are under way."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=ABORT_TIMEOUT_S)

    async def _abort(self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]) -> None:
        limit = aiohttp.ClientTimeout(total=ABORT_TIMEOUT_S)
        with contextlib.suppress(*TRANSPORT_ERRORS):
            for rid in attempt.call.leg_rids(attempt.rid):
                async with self._session.post(
                    backend.endpoint("/abort_request"),
                    json={"rid": rid},
                    headers=headers,
                    timeout=limit,
                ) as reply:
                    await reply.read()
