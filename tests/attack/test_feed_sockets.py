"""Feeds over sockets: each bound to its address and its key, none able to end or starve another."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from tests.attack.beside import stands_beside
from tests.attack.feed_stage import (
    Router,
    comes,
    message,
    publisher,
    publishing,
    run,
    shout,
    socket,
)
from tests.serving.late_engine import late_cluster
from voltana.errors import ConfigError
from voltana.serving.feed_key import FeedKey, check_leaves, find_feed_key, stays_here
from voltana.serving.feed_message import MOST_BYTES
from voltana.serving.router import feeds

if TYPE_CHECKING:
    from pathlib import Path

KEY, OTHER_KEY = FeedKey("k" * 32), FeedKey("o" * 32)


async def publisher_again(instance: str, key: FeedKey, address: str) -> Any:
    """A publisher where another was just now, whose socket ZeroMQ closes in its own time."""
    while True:
        try:
            return publisher(instance, key, address)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            await asyncio.sleep(0.02)


def test_whoever_listens_at_one_address_is_not_believed_of_another() -> None:
    async def check() -> None:
        honest = publisher("decode-1")
        with socket(zmq.DEALER, "tcp://127.0.0.1:*", bind=True) as (liar, address):
            async with (
                publishing((honest, 7)),
                Router({"decode-0": address, "decode-1": honest.address}) as router,
            ):
                await comes(lambda: router.heard("decode-1") == 7)
                for _ in range(100):
                    shout(liar, message("decode-1", 666))
                    shout(liar, message("decode-0", 5))
                    await asyncio.sleep(0.005)
                    assert router.heard("decode-1") == 7
                await comes(lambda: router.heard("decode-0") == 5)

    run(check)


FLOOD = """
import sys, time, zmq
made = zmq.Context().socket(zmq.DEALER)
print(made.bind("tcp://127.0.0.1:*").addr, flush=True)
junk = [bytes.fromhex(text) for text in sys.argv[1:]]
while True:
    for number in range(300):
        try:
            made.send(junk[number % len(junk)], zmq.NOBLOCK)
        except zmq.Again:
            pass
    time.sleep(0.01)
"""
"""Up to 30,000 messages a second, from a process of its own."""


def test_a_flood_from_one_agent_leaves_the_others_fresh_and_clients_served() -> None:
    """Garbage, deep nesting, honest messages and messages with a tail."""
    junk = [b"", b"\xc1" * 500, message("decode-0", 1), b"\x91" * 3000, message("decode-0", 2)]
    junk += [message("decode-0", 3) + b"\0" * 2000]
    flood = subprocess.Popen(
        ["nice", sys.executable, "-c", FLOOD, *(raw.hex() for raw in junk)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert flood.stdout is not None
    address = flood.stdout.readline().strip()

    async def check() -> None:
        honest = publisher("decode-1")
        async with (
            publishing((honest, 7)),
            late_cluster(prefill=1, decode=2) as pd,
            Router({"decode-1": honest.address}) as quiet,
        ):
            await comes(lambda: quiet.heard("decode-1") == 7)

            async def attack(first: str = address) -> None:
                """One more router's worth of feeds in this very loop, the flood among them."""
                feeds = {"decode-0": first, "decode-1": honest.address}
                async with Router(feeds) as flooded:
                    await comes(lambda: flooded.heard("decode-1") == 7)
                    while flooded.heard("decode-1") == 7:
                        await asyncio.sleep(0.01)
                    raise AssertionError("the honest feed grew stale")

            async def answered() -> bool:
                return (await pd.ask())[0] == 200 and quiet.heard("decode-1") == 7

            other = publisher("decode-0")
            async with publishing((other, 7)):
                await stands_beside(answered, attack, than=lambda: attack(other.address))

    try:
        run(check)
    finally:
        flood.kill()
        flood.communicate()


def test_a_message_of_megabytes_costs_its_sender_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_SILENT_S", 0.5)

    async def check() -> None:
        honest = publisher("decode-1")
        with socket(zmq.DEALER, "tcp://127.0.0.1:*", bind=True) as (liar, address):
            async with (
                publishing((honest, 7)),
                Router({"decode-0": address, "decode-1": honest.address}) as router,
            ):
                await comes(lambda: router.heard("decode-1") == 7)
                for _ in range(5):
                    shout(liar, b"\xdd" * (4 * MOST_BYTES))
                    shout(liar, *[b"a" * 1000] * 50)
                    await asyncio.sleep(0.05)
                    assert router.heard("decode-1") == 7

                def again() -> bool:
                    shout(liar, message("decode-0", 5))
                    return router.heard("decode-0") == 5

                await comes(again)

    run(check)


@pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["none", "another"])
def test_without_the_key_nobody_is_heard_and_nobody_listens(key: FeedKey | None) -> None:
    async def check() -> None:
        honest, liar = publisher("decode-1", KEY), publisher("decode-0", key)
        addresses = {"decode-0": liar.address, "decode-1": honest.address}
        with socket(zmq.DEALER, honest.address) as (spy, _):
            async with publishing((honest, 7), (liar, 666)), Router(addresses, KEY) as router:
                await comes(lambda: router.heard("decode-1") == 7)
                await asyncio.sleep(0.5)
                assert router.heard("decode-0") is None
                assert router.heard("decode-1") == 7
                assert not spy.poll(0)

    run(check)


def test_an_agent_with_the_key_is_not_taken_for_another_whose_address_it_has() -> None:
    """Its permanent key follows from its own name; messages of the other's in its mouth too."""

    async def check() -> None:
        other, honest = publisher("decode-0", KEY), publisher("decode-1", KEY)
        addresses = {"decode-1": other.address}
        async with publishing((other, 666)), Router(addresses, KEY) as router:
            await asyncio.sleep(0.5)
            assert router.heard("decode-1") is None
        async with publishing((honest, 7)), Router({"decode-1": honest.address}, KEY) as router:
            await comes(lambda: router.heard("decode-1") == 7)

    run(check)


def test_a_recording_of_a_connection_plays_to_nobody() -> None:
    """Every byte that an honest agent sent, played again to a router that connects."""

    async def check() -> None:
        honest = publisher("decode-1", KEY)
        port = int(honest.address.rpartition(":")[2])
        recorded, ended = bytearray(), asyncio.Event()

        async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)

            async def pass_on(a: asyncio.StreamReader, b: asyncio.StreamWriter, keep: bool) -> None:
                with contextlib.suppress(ConnectionError):
                    while piece := await a.read(65536):
                        if keep:
                            recorded.extend(piece)
                        b.write(piece)
                back.close()
                writer.close()

            await asyncio.gather(pass_on(reader, back, False), pass_on(there, writer, True))
            ended.set()

        async def play(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                writer.write(bytes(recorded))
                await writer.drain()
                await asyncio.sleep(0.3)
                writer.close()

        between = await asyncio.start_server(record, "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{between.sockets[0].getsockname()[1]}"
        async with publishing((honest, 7)), Router({"decode-1": address}, KEY) as router:
            await comes(lambda: router.heard("decode-1") == 7)
        await ended.wait()
        between.close()
        assert len(recorded) > 400
        player = await asyncio.start_server(play, "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{player.sockets[0].getsockname()[1]}"
        async with Router({"decode-1": address}, KEY) as router:
            await asyncio.sleep(1.0)
            assert router.heard("decode-1") is None
        player.close()
        await asyncio.sleep(0.4)  # what it plays last

    run(check)


def test_an_agent_that_starts_again_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a break of its router's socket, too."""
    monkeypatch.setattr(feeds, "_AGAIN_S", 0.05)

    async def check() -> None:
        first = publisher("decode-0", KEY)
        address = first.address
        async with Router({"decode-0": address}, KEY) as router:
            async with publishing((first, 1)):
                await comes(lambda: router.heard("decode-0") == 1)
            second = await publisher_again("decode-0", KEY, address)
            async with publishing((second, 2)):
                await comes(lambda: router.heard("decode-0") == 2)

    run(check)


def test_feeds_go_on_whatever_one_message_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        honest = publisher("decode-1")
        with socket(zmq.DEALER, "tcp://127.0.0.1:*", bind=True) as (liar, address):
            async with (
                publishing((honest, 7)),
                Router({"decode-0": address, "decode-1": honest.address}) as router,
            ):
                await comes(lambda: router.heard("decode-1") == 7)
                real = router.follower._use

                def poisoned(message: Any) -> None:
                    if message.instance == "decode-0":
                        raise MemoryError("whatever")
                    real(message)

                monkeypatch.setattr(router.follower, "_use", poisoned)
                for _ in range(20):
                    shout(liar, message("decode-0", 5))
                    await asyncio.sleep(0.01)
                await comes(lambda: router.heard("decode-1") == 7)
                monkeypatch.setattr(router.follower, "_use", real)

                def again() -> bool:
                    shout(liar, message("decode-0", 5))
                    return router.heard("decode-0") == 5

                await comes(again)

    run(check)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("tcp://127.0.0.1:5", True), ("tcp://127.8.9.1:5", True), ("tcp://[::1]:5", True),
        ("tcp://localhost:5", True), ("ipc:///run/x", True), ("tcp://10.0.0.1:5", False),
        ("tcp://0.0.0.0:5", False), ("tcp://[::]:5", False), ("tcp://*:5", False),
        ("tcp://localhost.evil.example:5", False), ("tcp://node-1:5", False),
        ("tcp://127.0.0.1:0;0.0.0.0:5", False), ("tcp://localhost:1;node-1:5", False),
        ("tipc://{1,0,0}", False), ("inproc://x", True),
    ],
)  # fmt: skip
def test_a_feed_leaves_the_host_with_a_key_alone(address: str, here: bool) -> None:
    assert stays_here(address) is here
    check_leaves("feed", address, KEY, open_to_all=False)
    check_leaves("feed", address, None, open_to_all=True)
    if here:
        check_leaves("feed", address, None, open_to_all=False)
    else:
        with pytest.raises(ConfigError, match="feed_key_file"):
            check_leaves("feed", address, None, open_to_all=False)


def test_a_key_that_others_can_read_or_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("k" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_feed_key(path, {})
    path.chmod(0o600)
    assert find_feed_key(path, {}) is not None
    path.write_text("short")
    with pytest.raises(ConfigError, match="one line"):
        find_feed_key(path, {})
    assert find_feed_key(None, {}) is None
    assert "k" * 32 not in repr(FeedKey("k" * 32))
