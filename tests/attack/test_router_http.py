"""HTTP that few clients speak: each is answered as it should be, and so is who comes after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import HONEST, Stage, post, run, say, status_of
from voltana.serving.http_log import LINES

if TYPE_CHECKING:
    from pathlib import Path

BODY = json.dumps(HONEST).encode()
LAST = post(BODY)
KEPT = LAST.replace(b"Connection: close\r\n", b"")
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
MOST_MB = 64.0
"""What eight clients that read nothing may make a router hold."""


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def with_body(method: str, path: str, *lines: str) -> bytes:
    return head(method, path, f"Content-Length: {len(BODY)}", *lines) + BODY


def kept(*lines: str) -> bytes:
    return with_body("POST", "/generate", *lines)


ANSWERS = {
    "HEAD of a request": (head("HEAD", "/generate"), 405),
    "HEAD of a request with a body": (with_body("HEAD", "/generate"), 405),
    "HEAD of a page": (head("HEAD", "/v1/models"), 200),
    "HEAD of health": (head("HEAD", "/health"), 200),
    "another method": (with_body("DELETE", "/generate"), 405),
    "no such page": (with_body("POST", "/nothing"), 404),
    "all options": (head("OPTIONS", "*"), 404),
    "br": (kept("Content-Encoding: br"), 415),
    "zstd": (kept("Content-Encoding: zstd"), 415),
    "one encoding on another": (kept("Content-Encoding: identity, gzip"), 415),
    "no encoding's name": (kept("Content-Encoding: "), 415),
    "an odd type": (kept("Content-Type: ;;;"), 200),
    "conditions": (kept("If-None-Match: *", "Range: bytes=0-1"), 200),
    "an absolute address": (with_body("POST", "http://elsewhere:1/generate"), 200),
    "40 at once": (KEPT * 40, 200),
}
ALONE = {
    "to be upgraded": (kept("Upgrade: h2c", "Connection: Upgrade"), 200),
    "an odd expectation": (kept("Expect: 200-maybe"), 200),
    "two types": (kept("Content-Type: a", "Content-Type: b"), 400),
    "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a tunnel": (head("CONNECT", "elsewhere:1"), 404),
    "more than it may have": (post(b"{", length=10**12), 413),
}


def test_who_comes_after_it_on_the_same_connection_is_answered() -> None:
    """What is left of one request is never taken for a part of the next."""

    async def attack(it: Stage) -> None:
        for name, (asked, status) in ANSWERS.items():
            said = await say(it.port, asked + LAST)
            assert status_of(said) == status, (name, said[:300])
            answers = said.split(b"HTTP/1.1 ")[1:]
            assert len(answers) == (41 if name == "40 at once" else 2), (name, said[:600])
            assert answers[-1].startswith(b"200"), (name, said[:600])
            assert b'"id": "honest"' in answers[-1].replace(b'":"', b'": "'), (name, said[-300:])
            if asked.startswith(b"HEAD"):
                assert answers[0].endswith(b"\r\n\r\n"), (name, answers[0])
        for name, (asked, status) in ALONE.items():
            assert status_of(await say(it.port, asked, read_s=2.0)) == status, name
        assert status_of(await say(it.port, LAST)) == 200

    run(attack)


SLOW = post(b'{"text": "a", "slow": 5}').replace(b"Connection: close\r\n", b"")
UPGRADE = b"Upgrade: h2c\r\nConnection: Upgrade\r\nHost: x"
FLOODS = {
    "requests behind one that takes long": (SLOW, GET * 500),
    "bytes behind a wish to upgrade": (SLOW.replace(b"Host: x", UPGRADE), b"y" * 65536),
    "bytes in a tunnel": (head("CONNECT", "/generate"), b"y" * 65536),
    "requests whose answers nobody reads": (b"", GET * 500),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_is_sent_ahead_without_end_takes_neither_memory_nor_time(name: str) -> None:
    first, more = FLOODS[name]

    async def one(it: Stage) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", it.port)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.5):
                writer.write(first)
                while True:
                    writer.write(more)
                    await writer.drain()
        writer.transport.abort()

    async def eight(it: Stage) -> None:
        before_mb = it.memory_mb
        await asyncio.gather(*(one(it) for _ in range(8)))
        assert it.memory_mb < before_mb + MOST_MB, "it kept what it could not answer"

    async def attack(it: Stage) -> None:
        await it.honest_beside(partial(eight, it), name, added_s=HEAVY_S)

    run(attack)


NONSENSE = (
    kept("Transfer-Encoding: chunked"),
    head("POST", "/generate", "Content-Length: +1"),
    head("POST", "/generate", "Authorization: Bearer my-secret\x01"),
    head("CONNECT", "elsewhere:1") + b"x" * 100,
    head("POST", "/generate", "Transfer-Encoding: chunked") + b"0\r\n" + b"a: b\r\n" * 200,
)


def test_strangers_do_not_fill_the_log(tmp_path: Path) -> None:
    """aiohttp wrote a traceback, with what was sent, for each request that is no HTTP."""
    path = tmp_path / "log"

    async def attack(it: Stage) -> None:
        before = path.stat().st_size
        for _ in range(40):
            await asyncio.gather(*(say(it.port, one, read_s=2.0) for one in NONSENSE))
        assert status_of(await say(it.port, LAST)) == 200
        written = path.read_bytes()[before:]
        assert written.count(b"\n") <= 5 * LINES, "ten lines in ten seconds are told"
        assert b"cannot be read" in written
        assert b"my-secret" not in written
        assert b"Traceback" not in written

    with path.open("wb") as log:
        run(attack, log=log)
