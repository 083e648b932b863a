"""Questions that concern servers rather than one request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from voltana.serving.router.leg import TRANSPORT_ERRORS
from voltana.serving.router.problem import JSON_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.serving.router.pool import Backend, Pool

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one server said.

    Attributes:
        backend: The server.
        status: HTTP status; 0 if it could not be reached.
        body: What it sent, or why it could not be reached.
        kind: Content type.
    """

    backend: Backend
    status: int
    body: bytes
    kind: str

    @property
    def ok(self) -> bool:
        """Whether it agreed."""
        return self.status == 200

    def value(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class FanOut:
    """Asks one server, or all of them.

    Args:
        pool: The servers.
        session: HTTP client.
    """

    def __init__(self, pool: Pool, session: aiohttp.ClientSession) -> None:
        self._pool = pool
        self._session = session

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
            f"no server answers {path}. Look at /router/status.",
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
        headers = {} if body is None else {"Content-Type": JSON_TYPE}
        if key is not None:
            headers["Authorization"] = key
        try:
            async with self._session.request(
                method,
                backend.url + path,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as reply:
                kind = reply.headers.get("Content-Type", "")
                return Reply(
                    backend=backend, status=reply.status, body=await reply.read(), kind=kind
                )
        except TRANSPORT_ERRORS as error:
            why = (str(error) or type(error).__name__).encode()
            return Reply(backend=backend, status=0, body=why, kind="")


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
