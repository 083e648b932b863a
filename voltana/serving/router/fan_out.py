"""Questions that concern servers rather than one request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltana.serving.router.problem import JSON_TYPE, Lost, Problem
from voltana.serving.router.wire import Line, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.serving.router.pool import Backend, Pool
    from voltana.serving.router.wire import Wire

TIMEOUT_S = 30.0


class FanOut:
    """Asks one server, or all of them.

    Args:
        pool: The servers.
        wire: HTTP client.
    """

    def __init__(self, pool: Pool, wire: Wire) -> None:
        self._pool = pool
        self._wire = wire

    async def first(self, path: str, key: str | None = None) -> Reply:
        """The answer of the first server that gives one, the available ones before the others.

        Args:
            path: What is asked for.
            key: The client's ``Authorization``, which is passed on.

        Raises:
            Problem: If none does.
        """
        last: Reply | None = None
        for backend in sorted(self._pool, key=lambda b: not b.available):
            last = await self._ask(backend, "GET", path, None, key)
            if last.ok:
                return last
        if last is not None and last.status:
            raise Problem(
                last.status,
                f"backend {last.backend.name!r} answered {last.status} to {path}.",
                "backend_error",
                body=last.body or None,
                body_type=last.kind or JSON_TYPE,
            )
        raise Problem(
            503,
            f"no server answers {path}. The administration's /router/status says why.",
            "no_backend",
            retry_after_s=1.0,
        )

    async def everyone(
        self, method: str, path: str, body: bytes | None = None, *, key: str | None = None
    ) -> list[Reply]:
        """The answers of all servers, in their order; `key` as for `first`."""
        asked = (self._ask(backend, method, path, body, key) for backend in self._pool)
        return list(await asyncio.gather(*asked))

    async def _ask(
        self, backend: Backend, method: str, path: str, body: bytes | None, key: str | None
    ) -> Reply:
        headers = {} if key is None else {"Authorization": key}
        line = Line(wire=self._wire, backend=backend, headers=headers, timeout_s=TIMEOUT_S)
        try:
            return await line.ask(method, path, body)
        except Lost as lost:
            return Reply(backend=backend, status=0, body=lost.why.encode(), kind="")


def agreed(replies: Iterable[Reply], what: str) -> None:
    """Check that all servers did as they were told.

    Raises:
        Problem: If one did not, naming it.
    """
    bad = [r for r in replies if not r.ok]
    if bad:
        who = "; ".join(
            f"{r.backend.name}: {r.status or 'unreachable'} {r.body[:200].decode(errors='replace')}"
            for r in bad
        )
        raise Problem(502, f"{what} failed on {who}", "backend_error")
