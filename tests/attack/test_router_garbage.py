"""However a request ends, it leaves no cycle behind: collecting those of thousands stops the loop.

A client that leaves left a hundred objects that held each other (a task that was cancelled keeps
the frames that it was in, and one of those kept the task). Some hundred such clients a second, and
all requests stood still for 0.2 s whenever the collector looked for what the last minute had left.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tests.attack.odd_server import OddServer
from tests.attack.router_stage import Stage, post, run, run_before, say
from tests.attack.test_router_poison import NONSENSE, QUICK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.attack.test_router_poison import Odd

    Client = Callable[[Stage], Awaitable[object]]

CLIENTS = 20
ENDED_S = 1.0
"""By then servers were told, and connections that were left are closed."""

ROUTE = 8
"""Objects of the HTTP server's own route for a request that has none."""


async def _leaves(asked: bytes, after_s: float, it: Stage) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(asked)
    await asyncio.sleep(after_s)
    writer.close()


async def _says(said: bytes, it: Stage) -> None:
    await say(it.port, said, read_s=5.0)


HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\n"
WAYS: dict[str, Client] = {
    "left at once": partial(_leaves, post(b'{"text": "a", "slow": 0.2}'), 0.0),
    "left": partial(_leaves, post(b'{"text": "a", "slow": 0.2}'), 0.05),
    "left a stream": partial(_leaves, post(b'{"text": "a", "slow": 0.4, "stream": true}'), 0.1),
    "left with log-probabilities": partial(
        _leaves, post(b'{"text": "a", "slow": 0.2, "return_logprob": true}'), 0.05
    ),
    "left a body": partial(_leaves, post(b'{"text": "a"', length=100), 0.05),
    "left a long body": partial(
        _leaves, post(b'{"text": "%s", "slow": 0.2}' % (b"a" * 100_000)), 0.05
    ),
    "left a body that is sent in pieces": partial(
        _leaves, post(b'{"text": "%s", "slow": 0.2}' % (b"a" * 600_000)), 0.05
    ),
    "refused": partial(_says, post(b'{"text": "refused"}')),
    "refused in a stream": partial(_says, post(b'{"text": "refused", "stream": true}')),
    "refused with log-probabilities": partial(
        _says, post(b'{"text": "refused", "return_logprob": true}')
    ),
    "no JSON": partial(_says, post(b'{"text": ')),
    "no HTTP": partial(_says, b"nonsense\r\n\r\n"),
    "a broken chunk": partial(_says, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "too long": partial(_says, post(b"", length=10**12)),
    "no gzip": partial(_says, post(b"a", "Content-Encoding: gzip")),
    "answered": partial(_says, post(b'{"text": "a"}')),
    "answered in a stream": partial(_says, post(b'{"text": "a", "stream": true}')),
    "trailers without end": partial(
        _says, HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000
    ),
    "an odd expectation": partial(_says, post(b'{"text": "a"}', "Expect: 200-maybe")),
    "bytes in a tunnel": partial(_says, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + b"x" * 100),
    "no such path": partial(_says, post(b"{}", path="/x")),
    "no such method": partial(
        _says, b"GET /generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ),
}
NO_ROUTE = {"no such path", "no such method", "bytes in a tunnel"}


async def _left_behind(it: Stage, *ways: Client) -> int:
    await it.garbage()
    for way in ways:
        await asyncio.gather(*(way(it) for _ in range(CLIENTS)))
    await asyncio.sleep(ENDED_S)
    return await it.garbage()


def test_no_way_to_end_leaves_a_cycle() -> None:
    async def attack(it: Stage) -> None:
        found = await _left_behind(it, *WAYS.values())
        if found > CLIENTS * (len(WAYS) + ROUTE * len(NO_ROUTE)):  # tell which it is
            by_way = {name: await _left_behind(it, way) for name, way in WAYS.items()}
            raise AssertionError({name: one for name, one in by_way.items() if one > CLIENTS})

    run(attack, servers={"prefill": 1, "decode": 1})


def test_no_nonsense_of_a_server_leaves_a_cycle() -> None:
    servers = [OddServer(NONSENSE["closed"]) for _ in range(2)]

    async def told(odd: Odd, it: Stage) -> None:
        for server in servers:
            server.odd = odd
        await say(it.port, post(b'{"text": "poison"}'))

    async def attack(it: Stage) -> None:
        ways = {name: partial(told, odd) for name, odd in NONSENSE.items()}
        found = await _left_behind(it, *ways.values())
        if found > CLIENTS * len(ways):
            by_way = {name: await _left_behind(it, way) for name, way in ways.items()}
            raise AssertionError({name: one for name, one in by_way.items() if one > CLIENTS})

    run_before(servers, attack, **QUICK)
