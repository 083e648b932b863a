"""A ring is a file that another program writes: the reader refuses or skips what is none."""

from __future__ import annotations

import json
import math
import random
import struct

import pytest

from voltana.serving.ring_reader import MOMENTS, RingReader
from voltana.serving.ring_records import MAX_COUNT, MAX_TIME_S, RingError, decode, decode_run
from voltana_ring.hooks.records import Records, idling
from voltana_ring.layout import (
    BODY,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    MAX_PAYLOAD,
    RUN,
    SLOT_BYTES,
    VERSION,
    Kind,
    packed,
    packed_changes,
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


@pytest.mark.parametrize("other", [VERSION - 1, VERSION + 1])
def test_a_ring_of_another_layout_is_refused_by_what_to_do(other, tmp_path):
    """A slot of the version before held one record, and would be read as garbage or in part."""
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
    struct.pack_into("=I", writer._memory, len(MAGIC), other)
    with pytest.raises(RingError, match=f"version {VERSION}: plugin and agent .* Install the same"):
        RingReader(writer.path)
    writer.close()


def test_a_slot_holds_records_one_behind_the_other_or_none(tmp_path):
    whole = packed([*WHOLE[:3], 1, 1, *WHOLE[5:]], (1.0, 2, 3), (4,))
    told = packed_changes((5, 1, 0, 2, 0, *WHOLE[5:]), [(7, 1.0, 1, 0), (8, 2.0, 2, 1)])
    records = decode_run(told + whole + payload())[0]
    assert [len(r.changes) for r in records] == [2, 0, 0]
    assert [r.rooms for r in records] == [(), (4,), ()]
    for cut in (1, 60, len(payload()) - 1):
        with pytest.raises(RingError, match="a record of"):
            decode_run(whole + payload()[:-cut])
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
    reader = RingReader(writer.path)
    writer.put(told + whole)
    writer.put(whole + payload()[:-1])  # half of what was meant is none of it
    writer.put(whole)
    assert [len(r.changes) for r in reader.drain()] == [2, 0, 0]
    assert (reader.torn, reader.position) == (1, 3 * MOMENTS)
    with pytest.raises(ValueError, match=f"must be at most {MAX_PAYLOAD}"):
        writer.put(bytes(MAX_PAYLOAD + 1))
    assert reader.drain() == []
    reader.close()
    writer.close()


def test_records_that_do_not_fit_one_slot_take_the_next_and_keep_their_order(tmp_path):
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=16)
    reader, records = RingReader(writer.path), Records(writer)
    launched = idling(0, 7, (0, 0, math.nan), 1.0)
    for count in (1, 40, 100):
        changes = [(n, 1.0, 1, 0) for n in range(count)]
        records.write_changes(launched, changes, 1.0)
        assert reader.position <= writer._head * MOMENTS
        entries = [1.0, 2, 3] * 40
        records.write(1, launched, 1.0, entries=entries, rooms=list(range(70)))
        told = reader.drain()
        assert [c.name for r in told for c in r.changes] == list(range(count))
        assert [room for r in told for room in r.rooms] == list(range(70))
        assert len(told[-1].waiting) == 40
    assert (reader.lost, reader.torn) == (0, 0)
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    "begins",
    [
        (6, 0, 1.0, 0.5), (6, 9, 1.0, 0.5), (6, 2**63, 1.0, 0.5), (6, 7, math.nan, 0.5),
        (6, 7, 1.0, math.inf), (6, 7, 0.0, 0.5), (6, 7, 1e11, 0.5), (6, 7, 1.0, -1.0),
    ],
)  # fmt: skip
def test_a_run_that_no_writer_begins_is_refused(begins, tmp_path):
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
    reader = RingReader(writer.path)
    writer.begin_run(payload() + RUN.pack(*begins))
    assert reader.drain() == []
    assert (reader.torn, reader.position) == (1, MOMENTS)
    reader.close()
    writer.close()


def test_a_run_behind_no_launch_is_refused(tmp_path):
    for told in (b"", BODY.pack(2, *WHOLE[1:])):
        writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
        reader = RingReader(writer.path)
        writer.begin_run(told + RUN.pack(6, WHOLE[5], 1.0, 0.5))
        assert reader.drain() == []
        assert reader.torn == 1
        reader.close()
        writer.close()


def test_a_run_of_impossible_numbers_is_refused(tmp_path):
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
    reader = RingReader(writer.path)
    writer.begin_run(payload(_9=MAX_COUNT) + RUN.pack(6, 7, 1.0, 0.5))
    assert reader.drain() == []
    assert reader.torn == 1
    reader.close()
    writer.close()


def test_a_run_under_a_hostile_pen_ends_and_tells_no_impossible_times(tmp_path):
    rng = random.Random(5)
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=8)
    reader = RingReader(writer.path)
    of = (*WHOLE[:5], 7, *WHOLE[6:14], 1.0, math.nan, math.nan)
    for round_ in range(400):
        first, full = writer.begin_run(BODY.pack(*of) + RUN.pack(6, 7, 1.0, 0.5))
        for at in range(first, full, 2):
            writer.times[at] = at - first + 1.25
            writer.times[at + 1] = at - first + 1.5
        for _ in range(rng.randrange(4)):
            writer._memory[(at := rng.randrange(first * 8, full * 8)) : at + 8] = rng.randbytes(8)
        if round_ % 3:
            writer.end_run(rng.choice((0, 5, (full - first) // 2, 2**40)))
        for _ in range(2):
            told = reader.drain()
            times = [r.at_s for r in told if r.at_s != WHOLE[6]]
            assert times == sorted(times)
            assert all(0 < time_s <= MAX_TIME_S for time_s in times)
            assert all(r.latency_s >= 0 for r in told if r.kind == Kind.FINISHED)
            assert len(told) <= 2 * 8
        writer.put(payload())
    assert reader.drain()
    reader.close()
    writer.close()
