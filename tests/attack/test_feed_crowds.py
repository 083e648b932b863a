"""Strangers who connect to a feed and say nothing, or too little, take none of the agent's files.

ZMQ keeps them, for half a minute or for good; a thousand took every file that an agent may have, so
that it heard no router, read no ring and reached no daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.attack.feed_stage import Router, comes, publisher, publishing, run
from voltana.serving.feed_crowd import MOST_WITHOUT
from voltana.serving.feed_key import FeedKey

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 1024
"""What a process may usually have."""

MADE = 2000
LEFT = """
import socket, sys, time
host, port = sys.argv[1].removeprefix("tcp://").split(":")
made = []
for number in range(int(sys.argv[3])):
    one = socket.create_connection((host, int(port)), timeout=30)
    one.sendall(bytes.fromhex(sys.argv[2]))
    made.append(one)
    time.sleep(0.002)
print("all", flush=True)
time.sleep(60)
"""
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\0NULL" + b"\0" * 48
READY = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
SAID = {
    "nothing": b"",
    "half a greeting": GREETING[:11],
    "a greeting": GREETING,
    "who they are, and no more": GREETING + b"\x04" + bytes([len(READY)]) + READY,
    "no ZMQ": b"GET / HTTP/1.1\r\n\r\n",
}


@contextlib.contextmanager
def strangers(address: str, say: bytes) -> Iterator[subprocess.Popen[str]]:
    """They come five hundred a second at most, and stay."""
    command = [sys.executable, "-c", LEFT, address, say.hex(), str(MADE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
        try:
            yield crowd
        finally:
            crowd.kill()


def files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("key", [None, FeedKey("k" * 32)], ids=["open", "with a key"])
def test_silent_connections_take_no_files_and_keep_no_router_out(
    name: str, key: FeedKey | None
) -> None:
    async def check() -> None:
        feed = publisher("decode-0", key)
        addresses = {"decode-0": feed.address}
        async with publishing((feed, 7)), Router(addresses, key) as one:
            await comes(lambda: one.heard("decode-0") == 7)
            before, most = files(), 0
            with strangers(feed.address, SAID[name]) as crowd:
                assert crowd.stdout is not None
                there = asyncio.create_task(asyncio.to_thread(crowd.stdout.readline))
                while not there.done():
                    await asyncio.sleep(0.02)
                    most = max(most, files())
                    assert one.heard("decode-0") == 7, "a router hears nothing any more"
                assert most < before + FILES // 2 + MOST_WITHOUT
                async with Router(addresses, key) as other:
                    await comes(lambda: other.heard("decode-0") == 7)
                await comes(lambda: files() < before + 2 * MOST_WITHOUT)
            await comes(lambda: files() <= before + 8)

    run(check)
