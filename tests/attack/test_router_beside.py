"""Attacks on the router's doors of which each lasts a moment, again and again beside honest use.

That each is refused as it should be is held elsewhere in this folder. Here honest requests, and
those of a second router with a prefill server, are held to their quiet times while it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import zmq

from tests.attack.attempts import each, hold
from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, _children, post, say, stage, status_of
from tests.attack.test_admin_router import DRAIN, FORGERIES, GOOD, HOST, bomb, raw, request
from tests.attack.test_feed_messages import HONEST as TOLD
from tests.attack.test_feed_messages import ODD
from tests.attack.test_steer import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Attack = Callable[[Stage], Awaitable[None]]

LONG = post(b'{"text": "' + b"word " * 20_000 + b'"}')
PAUSE_S = 0.002
"""Between two attempts of an attacker, who is no flood: floods are held to it in other files."""


@dataclass(frozen=True)
class Kind:
    """An attack.

    Attributes:
        point: Of the issue that asks for it.
        attack: Goes on for a moment.
        added_s: See `Pairs.kept`.
        pairs: Whether it is one on a router of prefill and decode servers.
    """

    point: int
    attack: Attack
    added_s: float = 0.0
    pairs: bool = False


def _to_admin(requests: list[bytes], *statuses: int) -> Attack:
    return lambda it: each(it.admin_port, requests, statuses, PAUSE_S)


def _to_public(requests: list[bytes], *statuses: int) -> Attack:
    return lambda it: each(it.port, requests, statuses, PAUSE_S)


FORGED = [
    request(method, "/router/drain", headers, DRAIN) for method, headers, _ in FORGERIES.values()
]
ODD_ORDERS = [
    request("POST", "/router/drain", GOOD, body)
    for body in (
        b"", b"{", b"[" * 50_000, b'{"a":' * 10_000, b"[]", b'{"backend": ["decode-0"]}',
        b'{"backend": "nobody"}', b'{"backend": "' + b"x" * 100_000 + b'"}', b"\xff\xfe\x00",
        b'{"backend": ' + b"9" * 60_000 + b"}",
    )
]  # fmt: skip
PACKED = [
    request("POST", "/router/drain", headers | {"Content-Encoding": "gzip"}, bomb(50))
    for headers in (GOOD, HOST | {"Content-Type": "application/json"})
]
PATHS = ("/metrics", "/router/status", "/router/drain", "//router/drain", "/router/%64rain")
AT_THE_PUBLIC_PORT = [request(how, path, GOOD, DRAIN) for path in PATHS for how in ("GET", "POST")]
LEGS = [
    post(b'{"text": "a", "%s": %s}' % (name, value))
    for name, value in (
        (b"http_worker_ipc", b'"tcp://192.0.2.1:9"'), (b"bootstrap_host", b'"192.0.2.1"'),
        (b"bootstrap_port", b"9"), (b"bootstrap_room", b"1"), (b"decode_tp_size", b"64"),
    )
]  # fmt: skip
HOPS = [
    post(b'{"text": "a"}', "X-Secret: 1", "Connection: X-Secret , close", "TE: trailers").replace(
        b"Connection: close\r\n", b""
    )
]
ODD_PROMPTS = [
    post(b'{"text": "a", %s}' % field)
    for field in (
        b'"image_data": ["' + b"a" * 50_000 + b'"]', b'"input_embeds": [[0.5, 1e300]]',
        b'"sampling_params": {"n": 99999999}', b'"rid": null', b'"bootstrap_room": [1]',
    )
]  # fmt: skip
DEEP = [post(b'{"text": "a", "x": ' + b"[" * depth + b"]" * depth + b"}") for depth in (101, 5000)]


async def _kill_helpers(it: Stage) -> None:
    """Kills what reads long bodies, again and again."""
    asked = asyncio.create_task(say(it.port, LONG, read_s=60.0))
    await asyncio.sleep(0.02)
    for child in _children(it.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert status_of(await asked) in {200, 413, 503}


async def _leave(it: Stage) -> None:
    """Clients that leave while a long body of theirs is read."""
    for wait_s in (0.0, 0.005, 0.02, 0.05):
        with connected(it.port) as sock:
            sock.send(LONG)
            await asyncio.sleep(wait_s)


async def _late_orders(it: Stage) -> None:
    """Heads of orders whose bodies never come, on more connections than there are places."""
    head = request("POST", "/router/drain", GOOD, DRAIN)[: -len(DRAIN)]
    await hold(it.admin_port, head, 100, PAUSE_S)


async def _scrape(it: Stage) -> None:
    """Whoever may read figures reads them all the time."""
    for _ in range(10):
        said = await raw(it.admin_port, request("GET", "/metrics", HOST))
        assert said.startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.02)


async def _refused(it: Stage) -> None:
    """Streams that the prefill server refuses: each client is told so."""
    for _ in range(5):
        said = await say(it.port, post(b'{"text": "refused", "stream": true}'))
        assert b"longer than the limit" in said, said[:300]
        await asyncio.sleep(PAUSE_S)


class Liars:
    """What is bound where the servers' agents would be."""

    def __init__(self) -> None:
        self._sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(2)]
        for made in self._sockets:
            made.setsockopt(zmq.LINGER, 0)
            made.bind("tcp://127.0.0.1:*")
        self.addresses = tuple(m.getsockopt_string(zmq.LAST_ENDPOINT) for m in self._sockets)

    async def lie(self, _: Stage) -> None:
        """Each field in turn holds each odd value; one agent speaks for the other as well."""
        for field in TOLD:
            for odd in ODD:
                told = msgspec.msgpack.encode(TOLD | {"instance": "unified-0", field: odd})
                for made in self._sockets:
                    with contextlib.suppress(zmq.Again):  # nobody listens yet
                        made.send(told, zmq.NOBLOCK)
            await asyncio.sleep(PAUSE_S)

    def close(self) -> None:
        for made in self._sockets:
            made.close()


LIARS = "what agents tell is odd"
KINDS: dict[str, Kind] = {
    "helpers are killed": Kind(12, _kill_helpers, HEAVY_S),
    "clients leave while their bodies are read": Kind(12, _leave),
    "forged orders": Kind(14, _to_admin(FORGED, 401, 403, 405, 415)),
    "odd orders": Kind(14, _to_admin(ODD_ORDERS, 400, 404, 413)),
    "packed orders": Kind(14, _to_admin(PACKED, 401, 413, 415)),
    "orders that never come": Kind(14, _late_orders),
    "the administration at the public port": Kind(14, _to_public(AT_THE_PUBLIC_PORT, 404, 405)),
    "scrapes without end": Kind(14, _scrape),
    "fields by which legs meet": Kind(16, _to_public(LEGS, 200)),
    LIARS: Kind(17, Liars.lie),  # type: ignore[arg-type]  (bound below)
    "prompts that nobody can count": Kind(18, _to_public(ODD_PROMPTS, 200, 400)),
    "refusals in streams": Kind(18, _refused, pairs=True),
    "headers of this hop": Kind(19, _to_public(HOPS, 200)),
    "deep bodies": Kind(19, _to_public(DEEP, 400)),
}


@pytest.fixture(scope="module")
def liars() -> Iterator[Liars]:
    made = Liars()
    yield made
    made.close()


@pytest.fixture(scope="module")
def stages(liars: Liars) -> Iterator[dict[bool, Stage]]:
    """Routers that all of it goes on before, one of them with a prefill server."""
    limits = {"header_s": 2.0, "body_s": 2.0}
    with (
        stage(feeds=liars.addresses, limits=limits) as plain,
        stage(servers={"prefill": 1, "decode": 2}, limits=limits) as pairs,
    ):
        yield {False: plain, True: pairs}


@pytest.mark.parametrize("name", KINDS)
def test_honest_use_stands_beside(name: str, stages: dict[bool, Stage], liars: Liars) -> None:
    kind = KINDS[name]
    it = stages[kind.pairs]
    attack: Any = liars.lie if name == LIARS else kind.attack

    async def check() -> None:
        async with asyncio.timeout(900):
            await it.honest_beside(partial(attack, it), name, kind.added_s)
            status = await raw(it.admin_port, request("GET", "/router/status", GOOD))
            assert b'"draining":true' not in status.replace(b" ", b"")

    asyncio.run(check())
