"""A client of a router under test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voltana.serving.admin.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from voltana.serving.router.service import RouterService

QUICK: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "prefill_router": "least-loaded",
    "decode_router": "least-loaded",
    "health_period_s": 0.2,
    "health_timeout_s": 0.3,
    "eject_s": 0.1,
    "eject_max_s": 0.2,
    "timeout_s": 5.0,
    "drain_timeout_s": 2.0,
    "loads_period_s": 0,
}
"""Settings that let a test end soon."""


@dataclass
class Asked:
    """A router that serves, and a client of it."""

    service: RouterService
    client: aiohttp.ClientSession
    url: str

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any, Any]:
        """Status, parsed body (events of a stream as a list), headers."""
        async with self.client.post(self.url + path, json=body, **options) as reply:
            raw = await reply.read()
            if reply.headers.get("Content-Type", "").startswith("text/event-stream"):
                return reply.status, events_of(raw), reply.headers
            try:
                return reply.status, json.loads(raw), reply.headers
            except json.JSONDecodeError:
                return reply.status, raw.decode(), reply.headers

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(self.url + path) as reply:
            raw = await reply.read()
            with contextlib.suppress(json.JSONDecodeError):
                return reply.status, json.loads(raw)
            return reply.status, raw.decode()

    async def ask_admin(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Ask the administration with its token: status and parsed body."""
        url = f"http://127.0.0.1:{self.service.administration.port}{path}"
        shown = token().header() | headers
        async with self.client.request(method, url, json=body, headers=shown) as reply:
            raw = await reply.read()
            with contextlib.suppress(json.JSONDecodeError):
                return reply.status, json.loads(raw)
            return reply.status, raw.decode()

    async def quiet(self) -> None:
        """Wait until nothing is in flight; fails if something stays."""
        await until(lambda: not (len(self.service.ledger) or self.service.forwarder.open))


def token() -> Token:
    """The token of the administration of what tests start."""
    return Token(os.environ["VOLTANA_ADMIN_TOKEN"], "the environment of the tests")


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; a busy machine may take its time.

    Raises:
        TimeoutError: If it does not come to hold.
    """
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def events_of(raw: bytes) -> list[Any]:
    """The events of a stream; the last one must be [DONE]."""
    parts = [p for p in raw.split(b"\n\n") if p.strip()]
    assert all(p.startswith(b"data: ") for p in parts), raw[:300]
    return [p[6:].decode() if p[6:] == b"[DONE]" else json.loads(p[6:]) for p in parts]
