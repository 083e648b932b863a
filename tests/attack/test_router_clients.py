"""Clients that connect and say little, nothing, or do not listen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from functools import partial

import pytest

from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, post, run, say, status_of
from tests.serving.late_engine import late_cluster
from tests.serving.router_client import until

HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"


ACCEPTED_S = 0.2
"""What the event loop may take to accept some hundred connections, which it does in one go."""


DEAF_S = 3.5
"""Time in which a client that does not read is cut off."""


class Crowd:
    """Connections that are opened and left as they are."""

    def __init__(self, stage: Stage, count: int, *pieces: bytes) -> None:
        self._stage, self._count, self._said = stage, count, b"".join(pieces)
        self.open: list[socket.socket] = []

    async def come(self) -> None:
        """Connect, beside the loop of the honest clients."""
        await asyncio.to_thread(self._connect)

    def go(self) -> None:
        for connection in self.open:
            connection.close()

    def _connect(self) -> None:
        for _ in range(self._count):
            with contextlib.suppress(ConnectionError):
                connection = socket.create_connection(("127.0.0.1", self._stage.port))
                self.open.append(connection)
                connection.sendall(self._said)


def test_thousands_of_unfinished_requests_do_not_concern_those_that_are_complete() -> None:
    """2,100 one-byte bodies: more than there may be open requests."""

    async def attack(stage: Stage) -> None:
        crowd = Crowd(stage, 2100, HEAD, b"{")
        await crowd.come()
        await stage.honest_beside(_idle)
        crowd.go()

    run(attack, max_in_flight=64)


def test_beyond_the_limit_the_oldest_unfinished_ones_go() -> None:
    async def attack(stage: Stage) -> None:
        for pieces in ((), (b"POST /gen",), (HEAD, b"{")):
            storm = partial(_storm, stage, *pieces)
            await stage.honest_beside(storm, added_s=HEAVY_S, held_s=ACCEPTED_S)
            await _newcomers(stage, *pieces)

    run(attack, limits={"unfinished": 200})


def test_heads_bodies_and_idle_connections_have_their_time() -> None:
    limits = {"header_s": 0.5, "body_s": 1.0, "idle_s": 1.5}

    async def attack(stage: Stage) -> None:
        loop = asyncio.get_running_loop()

        async def until_closed(*pieces: bytes) -> tuple[float, bytes]:
            began_s = loop.time()
            said = await say(stage.port, *pieces)
            return loop.time() - began_s, said

        async def slowly() -> float:
            """A head by byte: each byte must not begin its time anew."""
            began_s = loop.time()
            pieces = [b"X"] + [b"-"] * 400
            await say(stage.port, b"GET / HTTP/1.1\r\n", *pieces, pause_s=0.02)
            return loop.time() - began_s

        async def all_of_them() -> None:
            (head_s, _), (body_s, said), (idle_s, _), slow_s = await asyncio.gather(
                until_closed(b"POST /gen"), until_closed(HEAD, b"{"), until_closed(), slowly()
            )
            assert 0.4 < head_s < 3.0
            assert 0.9 < body_s < 5.0
            assert status_of(said) == 408
            assert 1.4 < idle_s < 4.0
            assert slow_s < 7.0

        await stage.honest_beside(all_of_them)

    run(attack, limits=limits)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """A stream that is longer than all buffers on its way, and a whole answer as well.

    Moving megabytes takes what it takes on this machine, so that clients who ask for the same and
    do read it are what deaf ones are held against.
    """

    async def attack(stage: Stage) -> None:
        async def ask(stream: bool, *, listens: bool) -> None:
            loop, one = asyncio.get_running_loop(), socket.socket()
            if not listens:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            one.setblocking(False)
            await loop.sock_connect(one, ("127.0.0.1", stage.port))
            body = {"text": "a", "pad": 2_000_000 if stream else 8_000_000, "stream": stream}
            await loop.sock_sendall(one, post(json.dumps(body).encode()))
            if listens:
                assert await _read_all(one) >= 8_000_000
                await asyncio.sleep(DEAF_S)
            else:
                await asyncio.sleep(DEAF_S)
                assert await _read_all(one) < 8_000_000

        async def some(*, listen: bool) -> None:
            await asyncio.gather(*(ask(stream, listens=listen) for stream in (True, False)))

        deaf, listening = partial(some, listen=False), partial(some, listen=True)
        await stage.honest_beside(deaf, than=listening)

    run(attack, limits={"unread_s": 1.0})


async def _read_all(one: socket.socket) -> int:
    """Bytes that come before the connection ends."""
    got = 0
    with one, contextlib.suppress(ConnectionError):
        while piece := await asyncio.get_running_loop().sock_recv(one, 1 << 16):
            got += len(piece)
    return got


def test_one_address_may_be_limited_and_others_exempted() -> None:
    slow = post(b'{"text": "a", "slow": 3.0}')

    async def refused(stage: Stage) -> int:
        said = await asyncio.gather(*(say(stage.port, slow) for _ in range(6)))
        return sum(b"limits.per_client" in answer for answer in said)

    async def limited(stage: Stage) -> None:
        assert await refused(stage) == 4

    async def exempted(stage: Stage) -> None:
        assert await refused(stage) == 0

    run(limited, limits={"per_client": 2})
    run(exempted, limits={"per_client": 2, "trusted": ["127.0.0.0/8"]})


def test_pipelined_and_half_closed_requests_are_answered_or_closed() -> None:
    async def attack(stage: Stage) -> None:
        async def both() -> None:
            last = post(b'{"text": "a"}')
            one = last.replace(b"Connection: close\r\n", b"")
            said = await say(stage.port, one * 40 + last)
            assert said.count(b"HTTP/1.1 200") == 41
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
            writer.write(one)
            writer.write_eof()
            async with asyncio.timeout(5.0):
                await reader.read()
            writer.close()

        await stage.honest_beside(both)

    run(attack)


def test_bodies_that_never_come_do_not_hold_up_a_shutdown() -> None:
    async def check() -> None:
        async with late_cluster(prefill=1, decode=1, drain_timeout_s=60.0) as pd:
            writers = []
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", pd.service.port)
                writer.write(HEAD.replace(b"/generate", b"/v1/completions") + b"{")
                writers.append(writer)
            await until(lambda: pd.service.forwarder.open == 20)
            async with asyncio.timeout(20.0):
                await pd.service.drain()
            for writer in writers:
                writer.close()

    asyncio.run(check())


STORM = """
import contextlib, socket, sys, time
port, said = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
opened = []
for _ in range(600):
    with contextlib.suppress(OSError):
        opened.append(socket.create_connection(("127.0.0.1", port)))
        opened[-1].sendall(said)
time.sleep(0.1)
"""
"""In a process of its own, so that it takes no time from those who measure."""


async def _storm(stage: Stage, *pieces: bytes) -> None:
    python = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", STORM, str(stage.port), b"".join(pieces).hex()
    )
    assert await python.wait() == 0


async def _newcomers(stage: Stage, *pieces: bytes) -> None:
    """Honest clients that connect amid the storm, each with its one request."""
    storm = asyncio.create_task(_storm(stage, *pieces))
    while not storm.done():
        said = await say(stage.port, post(b'{"text": "a", "rid": "new"}'))
        assert status_of(said) == 200, said[:300]
    await storm


async def _idle() -> None:
    await asyncio.sleep(0.2)


@pytest.mark.parametrize("known", [False, True])
def test_who_waited_while_the_router_stood_still_is_answered(known: bool) -> None:
    """A machine that sleeps, or has no core for long, is no fault of whoever had just asked."""
    kept = post(b'{"text": "a"}').replace(b"Connection: close\r\n", b"")

    async def attack(it: Stage) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        if known:
            writer.write(kept)
            assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
        else:
            await asyncio.sleep(0.1)
        os.kill(it.pid, signal.SIGSTOP)
        try:
            writer.write(kept)
            await asyncio.sleep(2.5)
        finally:
            os.kill(it.pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
        writer.close()

    run(attack, limits={"header_s": 1.0, "idle_s": 1.0})
