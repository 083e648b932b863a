"""A server that answers a long body before it has read it: its words reach the client at once.

Whoever first sends all of a body to a server that closes the connection, or reads no more of it,
finds it broken or waits until its time is over, takes the body to the next server as well, and
tells the client of a failure where it had been refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial

import pytest

from tests.attack.odd_server import OddServer
from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, post, run_before, say, status_of
from tests.attack.test_router_poison import sends

LONG = 1_000_000
WORDS = b'{"object":"error","message":"longer than I take","code":413}'
HEAD = b"HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
BODY = {"text": "x" * 4 * LONG}
AFTER_S = {"closes later": 0.3, "reads no more": 60.0}
TIMEOUT_S = 30.0
PATIENCE_S = 120.0
"""A child that reads long bodies has to be started first, by a machine that may be busy."""


class Early(OddServer):
    """Refuses bodies beyond a length by their head alone.

    Args:
        after_s: For how long it leaves the connection open, unread.
    """

    def __init__(self, after_s: float) -> None:
        super().__init__(sends(b""))
        self._after_s = after_s
        self.refused = 0

    async def refuses(self, length: int, writer: asyncio.StreamWriter) -> bool:
        """See `OddServer`."""
        if length < LONG:
            return False
        self.refused += 1
        with contextlib.suppress(asyncio.CancelledError):
            writer.write(HEAD % len(WORDS) + WORDS)
            await asyncio.sleep(self._after_s)
        return True


async def _refused(it: Stage, stream: bool) -> None:
    asked = post(json.dumps(BODY | {"stream": stream}).encode())
    said = await say(it.port, asked, read_s=PATIENCE_S)
    assert status_of(said) == 413, said[:300]
    assert said.endswith(WORDS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("then", AFTER_S)
def test_its_words_reach_the_client_and_nobody_else_gets_the_body(then: str, stream: bool) -> None:
    servers = [Early(AFTER_S[then]) for _ in range(2)]

    async def attack(it: Stage) -> None:
        await _refused(it, stream)  # children that read are started by the first
        assert sum(server.refused for server in servers) == 1, "it was tried again"
        async with asyncio.timeout(TIMEOUT_S / 2):
            await _refused(it, stream)
        await it.honest_beside(partial(_refused, it, stream), then, added_s=HEAVY_S)

    run_before(servers, attack, timeout_s=TIMEOUT_S)  # type: ignore[arg-type]


def test_one_that_closes_at_once_ejects_itself_least_of_all() -> None:
    """Its words may be lost with the connection, but no honest request is."""
    servers = [Early(0.0) for _ in range(2)]

    async def attack(it: Stage) -> None:
        async def poison() -> None:
            said = await say(it.port, post(json.dumps(BODY).encode()), read_s=PATIENCE_S)
            assert status_of(said) in {413, 502}, said[:300]

        await it.honest_beside(poison, added_s=HEAVY_S)

    run_before(servers, attack)  # type: ignore[arg-type]
