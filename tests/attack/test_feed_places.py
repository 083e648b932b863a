"""Strangers who take every place of a feed: routers of its own user are told all the same."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from tests.attack.feed_stage import FACTS, Router, comes, publisher, run, socket
from voltana.serving import feed_listeners
from voltana.serving.feed_listeners import MOST_LISTENERS
from voltana.serving.peers import UNKNOWN, Peer, peer_of
from voltana.values import InstanceState

if TYPE_CHECKING:
    from collections.abc import Iterator

STRANGER = 65534
CROWD = """
import os, sys, time, zmq
context = zmq.Context()
context.max_sockets = 512
os.setuid(int(sys.argv[1]))
made = []
for _ in range(int(sys.argv[3])):
    one = context.socket(zmq.DEALER)
    one.setsockopt(zmq.PROBE_ROUTER, 1)
    one.connect(sys.argv[2])
    made.append(one)
print("all", flush=True)
while True:
    for one in made:
        try:
            one.send(b"i", zmq.NOBLOCK)  # asks for a place again and again
            while one.poll(0):
                one.recv()
        except zmq.Again:
            pass
    time.sleep(0.01)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@contextlib.contextmanager
def strangers(address: str, number: int) -> Iterator[None]:
    """Listeners of another user, in a process of their own."""
    command = [sys.executable, "-c", CROWD, str(STRANGER), address, str(number)]
    crowd = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert crowd.stdout is not None
    try:
        assert crowd.stdout.readline() == "all\n"
        yield
    finally:
        crowd.kill()
        crowd.communicate()


def told(feed: Any) -> int:
    """Publishes a state; how many have a place."""
    feed.publish(InstanceState(kv_tokens=7, clock_mhz=1.0), age_s=0.0, facts=FACTS)
    return len(feed._listeners)


@needs_root
def test_strangers_who_take_all_places_keep_no_router_out() -> None:
    async def check() -> None:
        feed = publisher("decode-1")
        with strangers(feed.address, MOST_LISTENERS + 60):
            await comes(lambda: told(feed) == MOST_LISTENERS)
            async with (
                Router({"decode-1": feed.address}) as one,
                Router({"decode-1": feed.address}) as other,
            ):
                await comes(lambda: told(feed) and one.heard("decode-1") == 7)
                await comes(lambda: told(feed) and other.heard("decode-1") == 7)
                for _ in range(500):  # they ask again, and get no place of these
                    assert told(feed) == MOST_LISTENERS
                trusted = [p for p in feed._listeners._places.values() if p.peer.trusted]
                assert len(trusted) == 2
        feed.close()

    run(check)


class Named:
    """Names who comes next, in place of the kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peer = UNKNOWN
        self.asked = 0
        monkeypatch.setattr(feed_listeners, "peer_of", self)

    def __call__(self, _handle: int) -> Peer:
        self.asked += 1
        return self.peer


def test_one_address_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Named(monkeypatch)

    async def check() -> None:
        feed = publisher("decode-1")

        def places(name: str) -> int:
            told(feed)
            return sum(p.peer.name == name for p in feed._listeners._places.values())

        with contextlib.ExitStack() as crowd:

            async def come(peer: Peer, number: int) -> int:
                """How many places they have once all have knocked."""
                named.peer, before = peer, named.asked
                for _ in range(number):
                    crowd.enter_context(socket(zmq.DEALER, feed.address))
                await comes(lambda: told(feed) and named.asked == before + number)
                return places(peer.name)

            assert await come(Peer(trusted=False, name="a"), 70) == MOST_LISTENERS
            assert await come(Peer(trusted=False, name="b"), 40) == MOST_LISTENERS // 2
            assert await come(Peer(trusted=False, name="c"), 1) == 1
            assert await come(Peer(trusted=True, name="user 0"), 70) == MOST_LISTENERS
            assert places("c") == 0
        feed.close()

    run(check)


def test_the_kernel_is_asked_once_about_who_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Named(monkeypatch)

    async def check() -> None:
        feed = publisher("decode-1")
        with contextlib.ExitStack() as crowd:
            made = [
                crowd.enter_context(socket(zmq.DEALER, feed.address))[0]
                for _ in range(MOST_LISTENERS + 20)
            ]
            await comes(lambda: told(feed) and named.asked == len(made))
            for _ in range(20):
                for one in made:
                    with contextlib.suppress(zmq.Again):
                        one.send(b"i", zmq.NOBLOCK)
                told(feed)
            assert named.asked == len(made)
        feed.close()

    run(check)


@pytest.mark.parametrize("family", [sockets.AF_INET, sockets.AF_INET6, sockets.AF_UNIX])
def test_who_is_at_the_other_end_is_known(family: sockets.AddressFamily) -> None:
    with contextlib.ExitStack() as open_:
        if family == sockets.AF_UNIX:
            ours, _theirs = map(open_.enter_context, sockets.socketpair())
        else:
            server = open_.enter_context(sockets.socket(family))
            try:
                server.bind(("127.0.0.1" if family == sockets.AF_INET else "::1", 0))
            except OSError:
                pytest.skip("this host has no such addresses")
            server.listen()
            open_.enter_context(sockets.create_connection(server.getsockname()[:2]))
            ours = open_.enter_context(server.accept()[0])
        found = peer_of(ours.fileno())
        if found.name.startswith("user"):  # some containers forbid to ask
            assert found == Peer(trusted=True, name=f"user {os.geteuid()}")
        else:
            assert not found.trusted
            assert found.name in {"127.0.0.1/32", "::/64"}


def test_nobody_is_known_behind_what_is_no_connection() -> None:
    with sockets.socket() as alone, Path(os.devnull).open() as file:
        assert peer_of(alone.fileno()) == UNKNOWN
        assert peer_of(file.fileno()) == UNKNOWN
    assert peer_of(1 << 20) == UNKNOWN
