"""What connections send reaches the HTTP server whole, in order, and a little at a time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.serving import inlets as module
from voltana.serving.inlets import HEAD_ENDS, LINES, PIECE, SLICE, Inlet, Inlets, quick

if TYPE_CHECKING:
    import pytest


class Connection:
    """A transport that remembers whether it is read, and whether it was closed."""

    def __init__(self) -> None:
        self.reading = True
        self.aborted = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    close = write = writelines = get_extra_info = get_write_buffer_size = abort


class Server:
    """Remembers what it gets; pauses reading after every so many pieces."""

    def __init__(self, pauses_after: int = 0) -> None:
        self.got: list[bytes] = []
        self.inlet: Inlet | None = None
        self._pauses_after = pauses_after

    def connection_made(self, inlet: Inlet) -> None:
        self.inlet = inlet

    def data_received(self, data: bytes) -> None:
        assert self.inlet is not None
        assert not self.inlet._shut, "it was handed something while it took nothing"
        self.got.append(data)
        if self._pauses_after and len(self.got) % self._pauses_after == 0:
            self.inlet.pause_reading()
            asyncio.get_running_loop().call_soon(self.inlet.resume_reading)

    def connection_lost(self, error: Exception | None) -> None:
        self.inlet = None


def opened(inlets: Inlets, pauses_after: int = 0) -> tuple[Inlet, Connection, Server]:
    server, connection = Server(pauses_after), Connection()
    inlet = Inlet(inlets, lambda: server)
    inlet.connection_made(connection)  # type: ignore[arg-type]
    return inlet, connection, server


PIECES = st.lists(
    st.builds(
        lambda unit, times: unit * times,
        st.sampled_from([b"x", b"1\r\n \r\n", b"\n", b"a: b\r\n", b"y" * 999]),
        st.integers(1, 4000),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(
    sent=st.lists(PIECES, min_size=1, max_size=5),
    pauses_after=st.integers(0, 3),
    at_once=st.sampled_from([0, 2, 8, math.inf]),
)
def test_whatever_is_sent_arrives_whole_and_in_order(
    sent: list[list[bytes]], pauses_after: int, at_once: float
) -> None:
    async def check() -> None:
        inlets = Inlets(at_once)
        made = [opened(inlets, pauses_after) for _ in sent]

        async def send(number: int) -> None:
            inlet, connection, _ = made[number]
            for piece in sent[number]:
                while not connection.reading:
                    await asyncio.sleep(0)
                inlet.data_received(piece)

        async with asyncio.timeout(20):
            await asyncio.gather(*map(send, range(len(sent))))
            while not all(connection.reading for _, connection, _ in made):
                await asyncio.sleep(0)
        for pieces, (_, _, server) in zip(sent, made, strict=True):
            assert b"".join(server.got) == b"".join(pieces)
            assert all(len(got) <= SLICE or quick(got) for got in server.got)
        assert inlets.held == 0

    asyncio.run(check())


def test_what_costs_much_waits_behind_what_costs_little() -> None:
    async def check() -> None:
        inlets = Inlets()
        tiny, _, tiny_server = opened(inlets)
        long, connection, _ = opened(inlets)
        tiny.data_received(b"1\r\n \r\n" * 40_000)
        long.data_received(b"x" * 4 * PIECE)
        while not connection.reading:
            await asyncio.sleep(0)
        assert sum(map(len, tiny_server.got)) <= 20 * SLICE

    asyncio.run(check())


def test_a_request_of_few_lines_does_not_wait() -> None:
    async def check() -> None:
        inlet, connection, server = opened(Inlets())
        inlet.data_received(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 30_000)
        assert len(server.got) == 1
        assert connection.reading
        inlet.data_received(b"\n" * (LINES + 1))
        assert len(server.got) == 1
        assert not connection.reading

    asyncio.run(check())


def test_a_request_in_many_pieces_waits_after_the_first() -> None:
    async def check() -> None:
        inlet, connection, server = opened(Inlets(at_once=3))
        for _ in range(3):
            inlet.data_received(b"x")
        assert len(server.got) == 3
        inlet.data_received(b"x")
        assert len(server.got) == 3
        assert not connection.reading

    asyncio.run(check())


def test_beyond_what_may_wait_those_go_that_have_waited_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 100_000)

    async def check() -> None:
        inlets = Inlets()
        made: list[tuple[Any, Any, Any]] = [opened(inlets) for _ in range(5)]
        for inlet, _, _ in made:
            inlet.data_received(b"\r\n" * 20_000)
        assert [connection.aborted for _, connection, _ in made] == [True] * 3 + [False] * 2
        assert inlets.held == 80_000
        for inlet, _, _ in made:
            inlet.connection_lost(None)
        assert inlets.held == 0

    asyncio.run(check())


def test_nothing_is_let_in_of_a_connection_that_is_gone() -> None:
    async def check() -> None:
        inlets = Inlets()
        inlet, connection, server = opened(inlets)
        inlet.data_received(b"GET /")
        inlet.data_received(b"\r\n" * 20_000)
        connection.aborted = True
        inlet.connection_lost(None)
        await asyncio.sleep(0.01)
        assert server.got == [b"GET /"]
        assert connection.reading is False

    asyncio.run(check())


class OneByOne(Server):
    """Has at one thing at a time, as the HTTP server: requests wait in `_messages` meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[tuple[Any, ...]] = []
        self.most = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._messages += [(None,)] * data.count(HEAD_ENDS)
        self.most = max(self.most, len(self._messages))

    def begin(self) -> None:
        assert self.inlet is not None
        del self._messages[0]
        self.inlet.begun()


REQUEST = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


def test_of_requests_sent_without_waiting_one_is_let_in_when_the_last_is_begun() -> None:
    async def check() -> None:
        inlets, servers, connections = Inlets(), list[OneByOne](), list[Connection]()
        for _ in range(4):
            server, connection = OneByOne(), Connection()
            inlet = Inlet(inlets, lambda server=server: server)  # type: ignore[misc]
            inlet.connection_made(connection)  # type: ignore[arg-type]
            inlet.data_received(REQUEST * 50)
            servers.append(server)
            connections.append(connection)
        async with asyncio.timeout(20):
            for _ in range(50):
                while not all(server._messages for server in servers):
                    await asyncio.sleep(0)
                for server in servers:
                    server.begin()
            while not all(connection.reading for connection in connections):
                await asyncio.sleep(0)
        assert {server.most for server in servers} == {1}
        assert {b"".join(server.got) for server in servers} == {REQUEST * 50}

    asyncio.run(check())


def test_no_turn_of_the_line_lets_two_requests_in() -> None:
    async def check() -> None:
        inlets, servers = Inlets(), list[OneByOne]()
        for _ in range(20):
            servers.append(server := OneByOne())
            inlet = Inlet(inlets, lambda server=server: server)  # type: ignore[misc]
            inlet.connection_made(Connection())  # type: ignore[arg-type]
            inlet.data_received(REQUEST * 50)
        before = 0
        async with asyncio.timeout(20):
            while before < len(servers):
                await asyncio.sleep(0)
                begun = sum(len(server._messages) for server in servers)
                assert begun <= before + 1
                before = begun

    asyncio.run(check())
