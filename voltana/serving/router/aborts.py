"""Tells servers to stop working on what nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import structlog

from voltana.serving.router.attempt import KEPT_DRAIN_S
from voltana.serving.router.keys import REFUSED
from voltana.serving.router.problem import Problem
from voltana.serving.router.wire import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.serving.engine import Engine
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.keys import Keys
    from voltana.serving.router.pool import Backend
    from voltana.serving.router.wire import Wire

ABORT_TIMEOUT_S = 2.0

AT_ONCE = 4
"""Aborts that one server is told at a time: however many leave, they take no more connections."""

MOST_WAITING = 1024
"""Attempts whose servers are told, or wait to be; those of others are told by the connection."""


class Aborts:
    """Aborts that are under way.

    A closed connection says the same, but engines notice that only seconds later, and the next
    request has to wait for another one: the end of what a server sends is read first.

    Args:
        engine: Knows how a server is told.
        wire: HTTP client.
        keys: With the key for aborts that the router decides on; without one the key of the client
            whose request it was. Aborts that a client asks for come with its own.
    """

    def __init__(self, engine: Engine[Any], wire: Wire, keys: Keys) -> None:
        self._engine = engine
        self._wire = wire
        self._keys = keys
        self._refused = False
        self._log = structlog.get_logger("voltana.router")
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: WeakKeyDictionary[Backend, asyncio.Semaphore] = WeakKeyDictionary()

    def begin(self, attempt: Attempt) -> None:
        """Abort what an attempt has left behind, in the background."""
        if not attempt.at_work or len(self._tasks) >= MOST_WAITING:
            attempt.close_left()
            return
        headers = self._keys.for_admin() or {
            name: value
            for name, value in attempt.headers.items()
            if name.lower() == "authorization"
        }
        task = asyncio.create_task(self._all(attempt, headers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def on_behalf(self, attempt: Attempt, key: str | None) -> None:
        """Abort an attempt on all its servers because a client asks for it.

        Args:
            attempt: What is aborted.
            key: The client's ``Authorization``.

        Raises:
            Problem: If a server does not take the client's key for it.
        """
        headers = {} if key is None else {"Authorization": key}
        servers = tuple(attempt.servers)
        aborts = (self._abort(backend, attempt, headers) for backend in servers)
        for backend, status in zip(servers, await asyncio.gather(*aborts), strict=True):
            if status in REFUSED:
                names = self._keys.names
                raise Problem(
                    status,
                    f"backend {backend.name!r} does not allow this key to abort requests: must be "
                    f"its {names.admin_flag}, or its {names.api_flag} where it has no other. "
                    "Closing the connection of a request ends it as well.",
                    "abort_refused",
                )

    async def close(self) -> None:
        """Wait for those that are under way."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=KEPT_DRAIN_S + ABORT_TIMEOUT_S)

    async def _all(self, attempt: Attempt, headers: Mapping[str, str]) -> None:
        """Tell all servers that are at work on an attempt, and keep their connections."""
        try:
            await attempt.drained()  # of its own limit: servers are told in time however long it is
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                at_work = tuple(attempt.at_work)
                if len(at_work) == 1:
                    await self._told(at_work[0], attempt, headers)
                else:
                    await asyncio.gather(*(self._told(b, attempt, headers) for b in at_work))
        except TimeoutError:
            pass  # its connections are closed, which says the same
        finally:
            attempt.close_left()

    async def _told(self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]) -> None:
        """Tell a server in its turn, and wait for the end of its answer if it has heard it."""
        turn = self._turns.setdefault(backend, asyncio.Semaphore(AT_ONCE))
        async with turn:
            told = await self._own_abort(backend, attempt, headers)
        left = attempt.take_left(backend)
        if left is None:
            return
        if told:
            await left.read()
        else:
            left.close()

    async def _own_abort(
        self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]
    ) -> bool:
        """Whether it was told."""
        status = await self._abort(backend, attempt, headers)
        told = 0 < status < 500 and status not in REFUSED
        if told and backend is attempt.prefill:
            attempt.released()
        if status in REFUSED and not self._refused:
            self._refused = True
            names = self._keys.names
            self._log.warning(
                "a server refuses this router's key: what clients leave behind runs on there until "
                "the server notices. Set router.admin_api_key_file or router.api_key_file, or "
                f"{names.admin_variable} or {names.api_variable}",
                backend=backend.name,
                status=status,
            )
        return told

    async def _abort(self, backend: Backend, attempt: Attempt, headers: Mapping[str, str]) -> int:
        """The status of the answer; 0 without any."""
        line = Line(wire=self._wire, backend=backend, headers=headers, timeout_s=ABORT_TIMEOUT_S)
        try:
            return await self._engine.abort(line, attempt.call, attempt.number)
        except Problem:
            return 0
