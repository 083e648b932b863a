"""A ring is a file that another program writes: the reader refuses or skips what is none."""

from __future__ import annotations

import json
import math
import random

import pytest

from voltana.serving.ring_reader import RingError, RingReader, decode
from voltana_ring.layout import (
    BODY,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    SLOT_BYTES,
    VERSION,
)
from voltana_ring.writer import RingWriter

WHOLE = (1, 1, 0, 0, 0, 7, 12.5, 100, 5000.0, 3, 900, 2, 40, 12.0, 12.25, math.nan, math.nan)


def payload(**changes):
    fields = list(WHOLE)
    for index, value in changes.items():
        fields[int(index[1:])] = value
    return BODY.pack(*fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"_0": 9},
        {"_3": 41},
        {"_4": 1},
        {"_6": math.nan},
        {"_6": math.inf},
        {"_7": -1},
        {"_9": 2**62},
        {"_13": math.inf},
        {"_14": 1e300},
        {"_16": -math.inf},
    ],
)
def test_an_impossible_record_is_none(changes):
    with pytest.raises(RingError, match="a record of kind"):
        decode(payload(**changes))


@pytest.mark.parametrize(
    ("slots", "slot_bytes", "info"),
    [
        (0, SLOT_BYTES, b"{}"),
        (2**31, SLOT_BYTES, b"{}"),
        (4, 0, b"{}"),
        (4, 8, b"{}"),
        (4, SLOT_BYTES + 4, b"{}"),
        (4, 2**30, b"{}"),
        (5, SLOT_BYTES, b"{}"),
        (4, SLOT_BYTES, b"["),
        (4, SLOT_BYTES, b"[" * 3000),
        (4, SLOT_BYTES, b"17"),
    ],
)
def test_a_file_that_is_no_ring_is_refused(slots, slot_bytes, info, tmp_path):
    data = bytearray(HEADER_BYTES + 4 * SLOT_BYTES)
    HEADER.pack_into(data, 0, MAGIC, VERSION, slots, slot_bytes, 1, 1, 1.0, len(info))
    data[INFO_OFFSET : INFO_OFFSET + len(info)] = info
    path = tmp_path / "a.ring"
    path.write_bytes(data)
    with pytest.raises(RingError):
        RingReader(path)


def test_a_ring_under_a_hostile_pen_is_read_to_its_end(tmp_path):
    rng = random.Random(3)
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {"x": 1}, slots=16)
    reader = RingReader(tmp_path / "a.ring")
    try:
        with (tmp_path / "a.ring").open("r+b", buffering=0) as pen:
            for _ in range(2000):
                writer.write(WHOLE)
                pen.seek(HEADER_BYTES + rng.randrange(16 * SLOT_BYTES))
                pen.write(rng.randbytes(rng.randrange(1, 64)))
                assert len(reader.drain()) <= 16
        assert reader.torn > 0
        assert json.dumps(reader.info) == '{"x": 1}'
    finally:
        reader.close()
        writer.close()
