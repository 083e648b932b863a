"""The prefill leg of a request: its answer is drained, its failure is what matters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltana.serving.router.leg import TRANSPORT_ERRORS, error_in, failed, refused
from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import aiohttp

    from voltana.serving.router.call import Call
    from voltana.serving.router.pool import Backend

_HEAD_BYTES = 65536
"""So much of a prefill stream is looked at for an error; the rest is only drained."""

_DRAIN_S = 10.0
"""A prefill answer that is not complete so long after the whole answer is given up."""


class PrefillLeg:
    """Runs beside the decode leg.

    Args:
        backend: The prefill server.
        call: The request.
        session: HTTP client.
        done: Called when the leg is complete: the KV cache has been handed over.
        failed: Called with what went wrong, instead.
    """

    def __init__(
        self,
        backend: Backend,
        call: Call,
        session: aiohttp.ClientSession,
        *,
        done: Callable[[], None],
        failed: Callable[[Problem], None],
    ) -> None:
        self.backend = backend
        self._call = call
        self._session = session
        self._done = done
        self._failed = failed
        self._task: asyncio.Task[bytes] | None = None
        self._problem: Problem | None = None

    def start(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send it."""
        self._task = asyncio.create_task(self._run(body, headers))

    async def answer(self) -> bytes:
        """Its whole answer. May be awaited once it has been started.

        Raises:
            Problem: If it failed.
        """
        if self._task is None:
            raise RuntimeError("the leg was not started")
        # Shielded: whoever gives up waiting must not break off what only needs draining.
        content = await asyncio.shield(self._task)
        if self._problem is not None:
            raise self._problem
        return content

    def end(self, *, complete: bool) -> bool:
        """The request is over; returns whether the leg was still open.

        Args:
            complete: The client has its answer, so the rest is drained in order that the
                connection can be used again; otherwise it is closed, and the server notices.
        """
        task = self._task
        if task is None or task.done():
            return False
        if complete:
            asyncio.get_running_loop().call_later(_DRAIN_S, task.cancel)
        else:
            task.cancel()
        return True

    async def _run(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            content = await self._drain(body, headers)
        except Problem as problem:
            self._problem = problem
            self._failed(problem)
            return b""
        self.backend.succeeded()
        self._done()
        return content

    async def _drain(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        backend, call = self.backend, self._call
        try:
            async with self._session.post(
                backend.endpoint(call.path), data=body, headers=headers
            ) as reply:
                if call.logprobs or not call.stream or reply.status != 200:
                    content = await reply.read()
                else:
                    content = await _head(reply.content)
                status, kind = reply.status, reply.headers.get("Content-Type", "")
        except TRANSPORT_ERRORS as error:
            raise failed(backend, error) from error
        if status != 200:
            raise refused(backend, status, content, kind)
        problem = error_in(backend, content.split(b"\n\n", 1)[0]) if call.stream else None
        if problem is not None:
            raise problem
        return content


async def _head(content: aiohttp.StreamReader) -> bytes:
    """Read to the end, and return the beginning."""
    head = b""
    while chunk := await content.readany():
        if len(head) < _HEAD_BYTES:
            head += chunk
    return head
