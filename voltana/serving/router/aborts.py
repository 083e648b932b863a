"""Tells servers to stop working on what nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import structlog

from voltana.serving.router.keys import ADMIN_API_KEY_VARIABLE, API_KEY_VARIABLE, REFUSED
from voltana.serving.router.leg import TRANSPORT_ERRORS
from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.pool import Backend

ABORT_TIMEOUT_S = 2.0


class Aborts:
    """Aborts that are under way.

    A closed connection says the same, but SGLang notices that only seconds later.

    Args:
        session: HTTP client.
        headers: With the key for aborts that the router decides on; without one the key of the
            client whose request it was. Aborts that a client asks for come with its own.
    """

    def __init__(self, session: aiohttp.ClientSession, headers: Mapping[str, str]) -> None:
        self._session = session
        self._headers = headers
        self._refused = False
        self._log = structlog.get_logger("voltana.router")
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, attempt: Attempt, client: Mapping[str, str]) -> None:
        """Abort the legs of an attempt that are still open, in the background.

        Args:
            attempt: What is aborted.
            client: Headers of the request.
        """
        headers = self._headers or {
            name: value for name, value in client.items() if name.lower() == "authorization"
        }
        for backend in attempt.open_legs:
            task = asyncio.create_task(self._own_abort(backend, attempt, headers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def both_legs(self, attempt: Attempt, key: str | None) -> None:
        """Abort an attempt on a client's behalf.

        Args:
            attempt: What is aborted.
            key: The client's ``Authorization``.

        Raises:
            Problem: If a server does not take the client's key for it.
        """
        headers = {} if key is None else {"Authorization": key}
        aborts = (self._abort(leg, attempt, headers) for leg in attempt.legs)
        for leg, status in zip(attempt.legs, await asyncio.gather(*aborts), strict=True):
            if status in REFUSED:
                raise Problem(
                    status,
                    f"backend {leg.name!r} does not allow this key to abort requests: must be its "
                    "--admin-api-key, or its --api-key where it has no other. Closing the "
                    "connection of a request ends it as well.",
                    "abort_refused",
                )

    async def close(self) -> None:
        """Wait for those that are under way."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=ABORT_TIMEOUT_S)

    async def _own_abort(
        self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]
    ) -> None:
        status = await self._abort(backend, attempt, headers)
        if status in REFUSED and not self._refused:
            self._refused = True
            self._log.warning(
                "a server refuses this router's key: what clients leave behind runs on there until "
                "the server notices. Set router.admin_api_key_file or router.api_key_file, or "
                f"{ADMIN_API_KEY_VARIABLE} or {API_KEY_VARIABLE}",
                backend=backend.name,
                status=status,
            )

    async def _abort(self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]) -> int:
        """The status of the last answer; 0 without any."""
        limit, status = aiohttp.ClientTimeout(total=ABORT_TIMEOUT_S), 0
        with contextlib.suppress(*TRANSPORT_ERRORS):
            for rid in attempt.rids:
                async with self._session.post(
                    backend.endpoint("/abort_request"),
                    json={"rid": rid},
                    headers=headers,
                    timeout=limit,
                ) as reply:
                    await reply.read()
                    status = reply.status
        return status
