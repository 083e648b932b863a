"""The way back of a feed: whatever strangers say, states come in time and memory is bounded."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

from tests.attack.beside import stands_beside
from tests.attack.feed_stage import FACTS, Router, comes, publisher, run, shout, socket
from voltana.serving.feed_listeners import MOST_LISTENERS, MOST_SAID_BYTES
from voltana.serving.feed_message import pack_intended, parse_intended
from voltana.values import InstanceState, IntendedDemand

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MB = 60
"""What may come of a flood of seconds; 2 GB came of topics of 4,000 bytes."""

STRANGER = """
import os, sys, zmq
kind, address, says = sys.argv[1], sys.argv[2], sys.argv[3]
made = zmq.Context().socket(getattr(zmq, kind))
if kind == "DEALER":
    made.setsockopt(zmq.PROBE_ROUTER, 1)
made.setsockopt(zmq.SNDTIMEO, 200)
made.connect(address)
print("there", flush=True)
number = 0
while True:
    number += 1
    try:
        exec(says)
    except zmq.Again:
        pass
"""
INTENT = pack_intended(IntendedDemand(pool_per_s=9.0, share=0.5))

STRANGERS: dict[str, tuple[str, str]] = {
    "topics": ("XSUB", r'made.send(b"\x01" + os.urandom(30))'),
    "long topics": ("XSUB", r'made.send(b"\x01" + os.urandom(4000))'),
    "intents as subscribers sent them": ("XSUB", f"made.send({INTENT!r})"),
    "intents": ("DEALER", f"made.send({INTENT!r})"),
    "nonsense": ("DEALER", f"made.send(os.urandom({MOST_SAID_BYTES}))"),
    "long messages": ("DEALER", "made.send(os.urandom(1 << 20))"),
    "messages of many parts": ("DEALER", 'made.send_multipart([b"i"] * 1000)'),
    "nothing, and never reads": ("DEALER", 'made.send(b""); os.read(0, 1)'),
}


@contextlib.contextmanager
def stranger(name: str, address: str) -> Iterator[None]:
    """One in a process of its own."""
    kind, says = STRANGERS[name]
    command = ["nice", sys.executable, "-c", STRANGER, kind, address, says]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout is not None
    try:
        assert made.stdout.readline() == b"there\n"
        yield
    finally:
        made.kill()
        made.communicate()


@pytest.mark.parametrize("name", STRANGERS)
def test_states_come_in_time_whatever_strangers_say(name: str) -> None:
    async def check() -> None:
        feed, numbers = publisher("decode-1"), count(1)
        before_mb = _resident_mb()
        with stranger(name, feed.address):
            async with Router({"decode-1": feed.address}) as router:

                async def told() -> bool:
                    tokens = next(numbers)
                    state = InstanceState(kv_tokens=tokens, clock_mhz=1200.0)

                    def heard() -> bool:
                        feed.publish(state, age_s=0.0, facts=FACTS)
                        feed.take_intended()
                        return router.heard("decode-1") == tokens

                    await comes(heard)
                    return True

                await told()
                for _ in range(200):
                    assert await told()
        assert _resident_mb() - before_mb < MOST_MB
        feed.close()

    run(check)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def test_honest_states_stand_beside_a_stranger_who_intends_without_end() -> None:
    async def check() -> None:
        feed, other, numbers = publisher("decode-1"), publisher("decode-2"), count(1)
        async with Router({"decode-1": feed.address}) as router:

            async def told() -> bool:
                tokens = next(numbers)
                state = InstanceState(kv_tokens=tokens, clock_mhz=1200.0)
                feed.publish(state, age_s=0.0, facts=FACTS)
                feed.take_intended()
                await comes(lambda: router.heard("decode-1") == tokens)
                return True

            def first() -> bool:
                feed.publish(InstanceState(clock_mhz=1.0), age_s=0.0, facts=FACTS)
                return router.heard("decode-1") == 0

            await comes(first)

            with (
                socket(zmq.DEALER, feed.address) as (loud, _),
                socket(zmq.DEALER, other.address) as (quiet, _),
            ):

                async def shouts(speaker: zmq.Socket[bytes]) -> None:
                    for _ in range(100):
                        shout(speaker, INTENT)
                    await comes(lambda: True)

                await stands_beside(told, lambda: shouts(loud), than=lambda: shouts(quiet))
        feed.close()
        other.close()

    run(check)


ODD = (
    float("inf"), float("nan"), -1.0, 10**300, -(10**300), 1e300, "5", None, True, [], {}, b"",
    2**63,
)  # fmt: skip


@pytest.mark.parametrize("place", [1, 2, 3])
def test_an_odd_intent_is_refused_and_the_next_is_heard(place: int) -> None:
    for odd in ODD:
        said: list[object] = [1, 5.0, 0.5, 0.1]
        said[place] = odd
        try:
            raw = msgspec.msgpack.encode(said)
        except OverflowError:  # 10**300 has no form there
            continue
        with pytest.raises(ValueError, match=r"share|pool_per_s|held_s"):
            parse_intended(b"i" + raw)
    for raw in (b"i", b"i\xc1", b"i\x91\x01", b"i" + b"\x91" * 5000, b"i\x95\x01\x01\x00\x00\x00"):
        with pytest.raises(ValueError, match="unknown form"):
            parse_intended(raw)


def test_a_feed_has_places_and_those_who_leave_make_room() -> None:
    async def check() -> None:
        feed = publisher("decode-1")
        listeners = feed._listeners

        def told() -> int:
            feed.publish(InstanceState(clock_mhz=1.0), age_s=0.0, facts=FACTS)
            return len(listeners)

        with contextlib.ExitStack() as crowd:
            for _ in range(MOST_LISTENERS + 20):
                crowd.enter_context(socket(zmq.DEALER, feed.address))
            await comes(lambda: told() == MOST_LISTENERS)
        await comes(lambda: told() == 0)
        async with Router({"decode-1": feed.address}) as router:
            await comes(lambda: told() and router.heard("decode-1") == 0)
        feed.close()

    run(check)
