"""Bodies that want memory, time or a crash of the router."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import zlib
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.attack.own_time import HEAVY_S
from tests.attack.router_stage import Stage, _children, post, run, say, status_of

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_MB = 8.0
"""Largest body here, so that attacks are quick; each limit scales with what is configured."""

DELAY_S = 0.05
"""What a body of megabytes may add to another request at most, by the promise about bodies."""

LIMITS = {"bodies_mb": 24.0, "reading_s": 5.0, "body_s": 2.0}


def deep(levels: int, opens: bytes = b"[", closes: bytes = b"]") -> bytes:
    return b'{"text": "a", "x": ' + opens * levels + b"1" + closes * levels + b"}"


def packed(raw: bytes) -> bytes:
    return post(gzip.compress(raw), "Content-Encoding: gzip")


LONG = b'{"text": "' + b"a" * 7_000_000 + b'"}'

HEAVY: dict[str, tuple[bytes, int]] = {
    "bomb": (packed(b'{"text": "' + b"a" * 200_000_000 + b'"}'), 413),
    "prompts": (post(b'{"text": ["a"' + b', "a"' * 1_500_000 + b"]}"), 400),
    "prompts of ids": (post(b'{"input_ids": [[1]' + b", [1]" * 1_500_000 + b"]}"), 400),
    "lists": (post(b'{"text": "a", "x": [' + b"[]," * 2_500_000 + b"[]]}"), 200),
    "objects": (post(b'{"text": "a", "x": [' + b"{}," * 2_500_000 + b"{}]}"), 200),
    "keys": (post(b"{" + b",".join(b'"k%d":1' % i for i in range(600_000)) + b"}"), 200),
    "digits": (post(b'{"text": "a", "x": ' + b"1" * 7_000_000 + b"}"), 400),
    "spaces": (post(b'{"text": "a"}' + b" " * 7_000_000), 200),
    "escapes": (post(b'{"text": "' + rb"\u0000" * 1_000_000 + b'"}'), 200),
    "deep and long": (post(deep(1_000_000)), 400),
    "id": (post(b'{"text": "a", "rid": "' + b"r" * 7_000_000 + b'"}'), 400),
}


ANSWERED_S = 60.0
"""Longer than `LIMITS` let a body be read on a machine whose cores are busy."""


async def _three(stage: Stage, request: bytes, expected: int, seen: set[int]) -> None:
    asked = (say(stage.port, request, read_s=ANSWERED_S) for _ in range(3))
    statuses = {status_of(answer) for answer in await asyncio.gather(*asked)}
    # A busy machine may have no core for reading a long body in its time.
    assert statuses <= {expected, 413, 429, 503}, statuses
    seen |= statuses


def test_no_body_takes_memory_or_holds_up_another_request() -> None:
    async def attack(stage: Stage) -> None:
        before_mb = peak_mb = stage.memory_mb

        async def watch() -> None:
            nonlocal peak_mb
            while True:
                peak_mb = max(peak_mb, stage.memory_mb)
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        for name, (request, expected) in HEAVY.items():
            seen: set[int] = set()
            attack_once = partial(_three, stage, request, expected, seen)
            await stage.honest_beside(attack_once, name, DELAY_S)
            for _ in range(5):
                if expected not in seen:
                    await attack_once()
            assert expected in seen, (name, seen)
        watching.cancel()
        # Two bodies are read at a time, in children that take up to some 60 times the text.
        assert peak_mb - before_mb < 1200

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS)


def test_long_prompts_do_not_wait_behind_bodies_that_are_much_longer() -> None:
    """A prompt of 25,000 tokens, beside bodies of which each takes a second to read."""
    long = post(b'{"text": "' + b"word " * 20_000 + b'", "rid": "long"}')
    heavy = HEAVY["lists"][0]

    async def attack(stage: Stage) -> None:
        loop = asyncio.get_running_loop()
        assert status_of(await say(stage.port, long)) == 200
        heavies = [asyncio.create_task(say(stage.port, heavy)) for _ in range(10)]
        await asyncio.sleep(0.1)
        began_s = loop.time()
        statuses = await asyncio.gather(*(say(stage.port, long) for _ in range(3)))
        taken_s = loop.time() - began_s
        assert [status_of(said) for said in statuses] == [200] * 3
        left = sum(not task.done() for task in heavies)
        assert left >= 3, (left, taken_s)
        await asyncio.gather(*heavies)

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS | {"bodies_mb": 100.0})


def test_a_reading_child_that_was_killed_costs_no_request() -> None:
    long = post(b'{"text": "' + b"word " * 20_000 + b'", "rid": "long"}')

    async def attack(stage: Stage) -> None:
        for _ in range(3):
            for child in _children(stage.pid):
                os.kill(child, signal.SIGKILL)
            assert status_of(await say(stage.port, long)) == 200

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS)


def test_bodies_of_all_requests_together_are_bounded() -> None:
    """Each would fit alone; a client that stays below 64 kB is served all the time."""

    async def attack(stage: Stage) -> None:
        before_mb = stage.memory_mb

        async def twelve() -> None:
            asked = (say(stage.port, post(LONG, length=len(LONG) + 1)) for _ in range(12))
            statuses = [status_of(answer) for answer in await asyncio.gather(*asked)]
            assert statuses.count(429) >= 8, statuses
            assert statuses.count(408) <= 4, statuses

        await stage.honest_beside(twelve)
        assert stage.memory_mb - before_mb < 150
        assert status_of(await say(stage.port, post(LONG))) == 200  # everything was let go of

    # Time for twelve bodies of 7 MB to come, on a busy machine as well.
    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS | {"body_s": 6.0})


CHUNKED = b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b'd\r\n{"text": "a"}\r\n0\r\n'

LATE: dict[str, bytes] = {
    "no chunk": b"zz\r\n",
    "a chunk without an end": b"1\r\n  zz\r\n",
    "too many trailers": WHOLE + b"".join(b"a%d: b\r\n" % i for i in range(200)) + b"\r\n",
    "1.3 MB of trailers": WHOLE + b"".join(b"a%d: b\r\n" % i for i in range(120_000)),
    "the same one": WHOLE + b"a: b\r\n" * 233_000,
    "a long trailer": WHOLE + b"a: " + b"b" * 1_400_000 + b"\r\n\r\n",
    "no trailer": WHOLE + b"\x00\x01\r\n\r\n",
}
"""What comes after a head, when that is being dealt with already."""


def test_a_body_that_breaks_after_its_head_is_answered_at_once() -> None:
    """And not when the time for bodies is over: the parser has given the connection up."""

    async def attack(stage: Stage) -> None:
        async def all_of_them() -> None:
            for name, rest in LATE.items():
                began_s = asyncio.get_running_loop().time()
                reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
                writer.write(CHUNKED)
                await asyncio.sleep(0.1)
                with contextlib.suppress(ConnectionError):
                    writer.write(rest)
                    await writer.drain()
                said = b""
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(10.0):
                        while piece := await reader.read(1 << 16):
                            said += piece
                writer.close()
                # One that is cut off while it sends may find no answer, but an end.
                assert status_of(said) in {0, 400}, (name, said[:300])
                taken_s = asyncio.get_running_loop().time() - began_s
                assert taken_s < 10.0, (name, taken_s)

        await stage.beside(all_of_them)

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS | {"body_s": 60.0})


def _members(raw: bytes, count: int) -> bytes:
    return gzip.compress(raw) + gzip.compress(b"") * count


BROKEN: dict[str, tuple[bytes, int]] = {
    "NaN": (post(b'{"text": "a", "x": NaN}'), 400),
    "Infinity": (post(b'{"text": "a", "x": -Infinity}'), 400),
    "1e400": (post(b'{"text": "a", "x": 1e400}'), 400),
    "lone surrogate": (post(rb'{"text": "\ud800"}'), 400),
    "no UTF-8": (post(b'{"text": "\xff"}'), 400),
    "deep": (post(deep(101)), 400),
    "deep objects": (post(deep(120, b'{"a":', b"}")), 400),
    "as deep as Python": (post(deep(5000)), 400),
    "deep with an id": (post(deep(90)[:-1] + b', "rid": "a"}'), 200),
    "deep tools": (
        post(b'{"messages": [], "tools": ' + deep(300)[19:], path="/v1/completions"),
        400,
    ),
    "a list": (post(b"[]"), 400),
    "nothing": (post(b""), 400),
    "same key twice": (post(b'{"text": "a", "text": "b", "rid": "x", "rid": ["y"]}'), 200),
    "a long id": (post(b'{"text": "a", "stream": true, "rid": "' + b"r" * 8193 + b'"}'), 400),
    "a long id of many": (post(b'{"text": ["a"], "rid": ["' + b"r" * 60_000 + b'"]}'), 400),
    "an id as long as may be": (post(b'{"text": "a", "rid": "' + b"r" * 8192 + b'"}'), 200),
    "a fraction of an id": (post(b'{"text": "a", "rid": 1.5}'), 200),
    "no gzip": (post(b"{}", "Content-Encoding: gzip"), 400),
    "cut gzip": (post(gzip.compress(b'{"text": "a"}')[:-6], "Content-Encoding: gzip"), 400),
    "many members": (post(_members(b'{"text": "a"}', 9), "Content-Encoding: gzip"), 400),
    "gzip twice": (post(b"", "Content-Encoding: gzip, gzip"), 415),
    "gzip and not": (
        post(
            gzip.compress(b'{"text": "a"}'), "Content-Encoding: gzip", "Content-Encoding: identity"
        ),
        415,
    ),
    "not and gzip": (
        post(b'{"text": "a"}', "Content-Encoding: identity", "Content-Encoding: gzip"),
        415,
    ),
    "br": (post(b"x", "Content-Encoding: br"), 415),
    "zstd": (post(b"x", "Content-Encoding: zstd"), 415),
    "gzip": (post(gzip.compress(b'{"text": "a"}'), "Content-Encoding: gzip"), 200),
    "deflate": (post(zlib.compress(b'{"text": "a"}'), "Content-Encoding: deflate"), 200),
    "declared too long": (post(b"{", length=10**15), 413),
    "length no number": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    "length below zero": (b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "length and chunks": (post(b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
    "bad chunk": (
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
    ),
    "shorter than declared": (post(b'{"text": "a"}', length=99), 408),
    "100,000 headers": (post(b"{}", *(f"X-{i}: 1" for i in range(100_000))), 400),
    "a long header": (post(b"{}", "X: " + "a" * 100_000), 400),
}


def test_what_is_wrong_is_refused_with_its_reason_and_nothing_breaks() -> None:
    async def attack(stage: Stage) -> None:
        async def all_of_them() -> None:
            for name, (request, expected) in BROKEN.items():
                said = await say(stage.port, request)
                assert status_of(said) == expected, (name, said[:300])

        await stage.honest_beside(all_of_them)

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS | {"body_s": 0.5})


@pytest.mark.parametrize(
    "piece", [b"10000\r\n" + b" " * 65536 + b"\r\n", b"1\r\n \r\n"], ids=["fast", "by byte"]
)
def test_a_body_without_an_end_ends(piece: bytes) -> None:
    async def attack(stage: Stage) -> None:
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

        async def endless() -> None:
            pieces = (head, *[piece] * 400)
            slowly = 0.0 if len(piece) > 100 else 0.01
            said = await say(stage.port, *pieces, pause_s=slowly, read_s=5.0)
            # A client that goes on sending may find the connection closed before it reads why.
            assert status_of(said) in {0, 408, 413, 429}, said[:300]

        async def four() -> None:
            await asyncio.gather(*(endless() for _ in range(4)))

        await stage.honest_beside(four, added_s=HEAVY_S)

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS)


def test_a_message_says_the_limit() -> None:
    cases: list[tuple[Callable[[], bytes], str]] = [
        (lambda: HEAVY["bomb"][0], "longer than 8 MB"),
        (lambda: HEAVY["prompts"][0], "at most 1024"),
        (lambda: BROKEN["deep"][0], "more than 100 deep"),
    ]

    async def attack(stage: Stage) -> None:
        for request, words in cases:
            assert words.encode() in await say(stage.port, request())

    run(attack, max_body_mb=LIMIT_MB, limits=LIMITS)
