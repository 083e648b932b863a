"""Has a KV cache given up that a prefill server keeps and that no decode server is to fetch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from voltana.serving.router.problem import Problem
from voltana.serving.router.wire import Line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voltana.serving.router.pool import Backend

RELEASE_PATH = "/v1/completions"

RELEASES = "voltana-releases-a-kv-cache"
"""A model that no server has. A decode server refuses the request, and tells the prefill server
that the KV cache of the request is not wanted."""

TURN_S = 0.25
"""A decode server that has not refused by then may hang: the next is asked as well. To refuse takes
a server milliseconds, and what two of them refuse is given up once."""

_BROKEN = 500
"""Statuses from it on say that a server did not get as far as to refuse."""


class Releasing:
    """Asks decode servers one after the other, those first that have answered lately.

    Args:
        backends: The decode servers.
    """

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._backends = list(backends)

    async def release(self, line: Line, params: Mapping[str, Any]) -> int:
        """Have one of them refuse a request.

        Args:
            line: To the prefill server.
            params: What that hands over.

        Returns:
            The status of the answer; 0 if none refuses it.
        """
        body = orjson.dumps(
            {"model": RELEASES, "prompt": [0], "max_tokens": 1, "kv_transfer_params": params}
        )
        asking: set[asyncio.Task[int]] = set()
        try:
            for backend in tuple(self._backends):
                asking.add(asyncio.create_task(self._ask(line, backend, body)))
                if status := await _answered(asking, TURN_S):
                    return status
                self._put_last(backend)
            while asking:
                if status := await _answered(asking, None):
                    return status
        finally:
            for task in asking:
                task.cancel()
        return 0

    def _put_last(self, backend: Backend) -> None:
        """It does not answer: ask the others first from now on."""
        self._backends.remove(backend)
        self._backends.append(backend)

    @staticmethod
    async def _ask(line: Line, backend: Backend, body: bytes) -> int:
        through = Line(
            wire=line.wire, backend=backend, headers=line.headers, timeout_s=line.timeout_s
        )
        try:
            status = (await through.ask("POST", RELEASE_PATH, body)).status
        except Problem:
            return 0
        return status if status < _BROKEN else 0


async def _answered(asking: set[asyncio.Task[int]], timeout_s: float | None) -> int:
    """The status of the first that refuses within a time; 0 if none does, or one fails first.

    Args:
        asking: Those that are asked; what has ended is taken out.
        timeout_s: The time; None waits for the next that ends.
    """
    done, _ = await asyncio.wait(asking, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    asking -= done
    return max((task.result() for task in done), default=0)
