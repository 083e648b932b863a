"""An agent that reads an honest engine's ring while another engine of its instance writes nonsense.

That each nonsense is refused as it should be is held elsewhere in this folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack import test_admin_agent
from tests.attack.beside import stands_beside
from tests.attack.test_admin_agent import serving
from tests.attack.test_ring_records import PAYLOAD
from voltana_ring.layout import (
    GUARD,
    GUARD_OFFSET,
    HEAD_OFFSET,
    HEADER_BYTES,
    PAYLOAD_OFFSET,
    SLOT_BYTES,
    Kind,
    checksum,
)
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAN = float("nan")
SLOTS = 64
FACTS = {
    "version": "0.5.23", "role": "decode", "model": "tiny", "tp_size": 1,
    "kv_capacity_tokens": 200_000, "max_running_requests": 32, "max_prefill_tokens": 4096,
}  # fmt: skip
PAUSE_S = 0.002


@contextlib.contextmanager
def engine(folder: Path, rank: int) -> Iterator[RingWriter]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"decode-0@dp{rank}.pp0.tp0.ring"
    writer = RingWriter(path, folder / "decode-0.bell", FACTS, slots=SLOTS)
    try:
        yield writer
    finally:
        writer.close()


class Engine:
    """Tells its iterations."""

    def __init__(self, writer: RingWriter) -> None:
        self._writer = writer
        self._number = 0

    def tell(self, kind: Kind = Kind.IDLE) -> None:
        self._number += 1
        numbers = (0, 0, 0, 0) if kind is Kind.IDLE else (0, 0, 4, 2000)
        at_s = time.monotonic()
        self._writer.write(
            (kind, 0, 0, 0, 0, self._number, at_s, *numbers, 0, 0, NAN, at_s, NAN, NAN), (), ()
        )
        self._writer.ring()


def _poisoned(writer: RingWriter, randoms: random.Random) -> None:
    """Records whose checksums fit, and which no writer makes."""
    for _ in range(8):
        payload = bytearray(PAYLOAD)
        for _ in range(4):
            payload[randoms.randrange(len(payload))] = randoms.randrange(256)
        number = struct.unpack_from("=Q", writer._memory, HEAD_OFFSET)[0]
        offset = HEADER_BYTES + number % SLOTS * SLOT_BYTES
        GUARD.pack_into(writer._memory, offset + GUARD_OFFSET, checksum(payload), len(payload))
        at = offset + PAYLOAD_OFFSET
        writer._memory[at : at + len(payload)] = bytes(payload)
        struct.pack_into("=Q", writer._memory, offset, 2 * number + 2)
        struct.pack_into("=Q", writer._memory, HEAD_OFFSET, number + 1)
    writer.ring()


def _torn(writer: RingWriter, randoms: random.Random) -> None:
    """Slots that are for ever being written."""
    number = struct.unpack_from("=Q", writer._memory, HEAD_OFFSET)[0]
    at = HEADER_BYTES + randoms.randrange(SLOTS) * SLOT_BYTES
    writer._memory[at : at + SLOT_BYTES] = randoms.randbytes(SLOT_BYTES)
    struct.pack_into("=Q", writer._memory, HEAD_OFFSET, number + SLOTS // 2)
    writer.ring()


def _jumping(writer: RingWriter, randoms: random.Random) -> None:
    """A head that says that any number of records have come."""
    struct.pack_into("=Q", writer._memory, HEAD_OFFSET, randoms.choice((0, 5, 2**63, 2**64 - 1)))
    writer.ring()


def _flooding(writer: RingWriter, _: random.Random) -> None:
    """Ten times as many iterations as the quickest engines have, `AT_ONCE` a pause."""
    Engine(writer).tell()


NONSENSE: dict[str, Callable[[RingWriter, random.Random], None]] = {
    "poisoned": _poisoned,
    "torn": _torn,
    "jumping": _jumping,
    "flooding": _flooding,
}
AT_ONCE = {"flooding": SLOTS // 4}


@pytest.mark.parametrize("name", NONSENSE)
def test_an_honest_ring_is_read_beside_a_hostile_one(name: str, tmp_path: Path) -> None:
    folder, randoms = tmp_path / "rings", random.Random(1)

    async def check() -> None:
        with engine(folder, 0) as sound, engine(folder, 1) as odd:
            async with serving(tmp_path) as it:
                group: Any = it.agent.group
                async with asyncio.timeout(30):
                    while len(group._served) < 2:
                        await asyncio.sleep(0.01)
                reader = next(s.reader for p, s in group._served.items() if "@dp0" in p.name)
                told = Engine(sound)

                async def read() -> bool:
                    due = reader.position + 1
                    told.tell()
                    async with asyncio.timeout(30):
                        while reader.position < due:
                            await asyncio.sleep(0)
                    return int(reader.torn) == int(reader.lost) == 0

                async def attack() -> None:
                    for _ in range(AT_ONCE.get(name, 1)):
                        NONSENSE[name](odd, randoms)
                        await asyncio.sleep(0)  # what an engine computes is not the agent's loop's
                    await asyncio.sleep(PAUSE_S)

                await stands_beside(read, attack, requests=150)

    test_admin_agent.run(check)


def test_an_honest_ring_is_read_while_others_are_cut_short_and_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "rings"

    async def check() -> None:
        with engine(folder, 0) as sound:
            async with serving(tmp_path) as it:
                group: Any = it.agent.group
                async with asyncio.timeout(30):
                    while not group._served:
                        await asyncio.sleep(0.01)
                served = next(iter(group._served.values()))
                told = Engine(sound)
                for _ in range(6):
                    with engine(folder, 1):
                        due = served.reader.position + 1
                        async with asyncio.timeout(30):
                            while len(group._served) < 2:
                                await asyncio.sleep(0.01)
                            os.truncate(folder / "decode-0@dp1.pp0.tp0.ring", 0)
                            told.tell()
                            while served.reader.position < due or len(group._served) > 1:
                                await asyncio.sleep(0.01)
                    (folder / "decode-0@dp1.pp0.tp0.ring").unlink(missing_ok=True)

    test_admin_agent.run(check)
