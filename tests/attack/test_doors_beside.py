"""Attacks on the agent's control endpoint and on `steer`, again and again beside honest use.

That each is refused as it should be is held elsewhere in this folder.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack import test_admin_agent, test_steer
from tests.attack.attempts import each, hold
from tests.attack.beside import stands_beside
from tests.attack.test_admin_agent import OUT_OF_RANGE, changes, serving
from tests.attack.test_admin_router import FORGERIES, GOOD, bomb, raw, request
from tests.attack.test_steer import ADMINISTRATION, HALF, connected, steered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PAUSE_S = 0.003
PACKED = request("PUT", "/slo", GOOD | {"Content-Encoding": "gzip"}, bomb(20))
ODD_SLOS = [request("PUT", f"/{path}", GOOD, body) for path, body in OUT_OF_RANGE[::7]]
LATE = request("PUT", "/slo", GOOD, b"{}")[:-2]


_each = partial(each, statuses=range(400, 500), pause_s=PAUSE_S)
_hold = partial(hold, count=60, pause_s=PAUSE_S)

AGENT: dict[str, Callable[[int], Awaitable[None]]] = {
    "values out of range": lambda port: _each(port, ODD_SLOS),
    "packed bodies": lambda port: _each(port, [PACKED]),
    "bodies that never come": lambda port: _hold(port, LATE),
}
"""Point 14."""


@pytest.mark.parametrize("name", AGENT)
def test_changes_of_an_agent_stand_beside(name: str, tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as it:
            await stands_beside(changes(it), partial(AGENT[name], it.port), requests=80)

    test_admin_agent.run(check)


FORGED = [
    request(method, "/flush_cache", headers, b"{}")
    for method, headers, _ in FORGERIES.values()
    if method == "POST"
]
DEEP = request(
    "POST", "/generate", GOOD, b'{"text": "a", "x": ' + b"[" * 60_000 + b"]" * 60_000 + b"}"
)
PATHS = [request("POST", path, GOOD, b"{}") for path in ADMINISTRATION]


async def _deep(it: Any) -> None:
    """Passed on or refused, and no error of `steer`."""
    assert not (await raw(it.service.port, DEEP)).startswith(b"HTTP/1.1 5")
    await asyncio.sleep(PAUSE_S)


ASK = request("POST", "/generate", GOOD, b'{"text": "a"}')


async def _leave(it: Any) -> None:
    """Clients that ask, and leave before they have read."""
    for _ in range(10):
        with connected(it.service.port) as sock:
            sock.send(ASK)
            await asyncio.sleep(PAUSE_S)


STEER: dict[str, Callable[[Any], Awaitable[None]]] = {
    "paths of the administration": lambda it: _each(it.service.port, PATHS),
    "forged orders": lambda it: _each(it.service.administration.port, FORGED),
    "bodies that never come": lambda it: _hold(it.service.port, HALF),
    "deep bodies": _deep,
    "clients that leave": _leave,
}
"""Points 14 and 19."""


@pytest.mark.parametrize("name", STEER)
def test_requests_to_steer_stand_beside(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with steered(max_in_flight=128) as it:

            async def honest() -> bool:
                return (await it.ask())[0] == 200

            await stands_beside(honest, partial(STEER[name], it), requests=80)
            assert "Error handling request" not in caplog.text

    test_steer.run(check)
