"""What an attacker does to a port, one attempt after the other: a flood is another thing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.attack.router_stage import status_of
from tests.attack.test_admin_router import raw
from tests.attack.test_steer import connected

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


async def each(
    port: int, requests: Iterable[bytes], statuses: Container[int], pause_s: float
) -> None:
    """Send each of them in turn, answered by one of these."""
    for one in requests:
        said = await raw(port, one)
        assert status_of(said) in statuses, (one[:200], said[:200])
        await asyncio.sleep(pause_s)


async def hold(port: int, head: bytes, count: int, pause_s: float) -> None:
    """Send so many requests whose bodies never come, each on a connection of its own."""
    with contextlib.ExitStack() as held:
        for _ in range(count):
            held.enter_context(connected(port)).send(head)
            await asyncio.sleep(pause_s)
