"""What lies in a ring or a configuration file may be anything; who reads it goes on."""

from __future__ import annotations

import json
import math
import os
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.errors import ConfigError
from voltana.serving.config import read_config
from voltana.serving.ring_reader import RingReader
from voltana.serving.ring_records import (
    MAX_COUNT,
    MAX_TIME_S,
    Record,
    RingError,
    decode,
    decode_run,
)
from voltana.serving.router.command_line import table_of
from voltana_ring.layout import (
    BODY,
    ENTRY,
    GUARD,
    HEAD_OFFSET,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    MAX_ENTRIES,
    PAYLOAD_OFFSET,
    ROOM,
    SLOT_BYTES,
    VERSION,
    Kind,
    checksum,
)
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    from pathlib import Path

NAN = math.nan
HONEST = (Kind.LAUNCHED, 2, 0, 2, 1, 7, 1.5, 64, 2080.0, 3, 900, 2, 40, 1.25, 1.5, NAN, NAN)
PAYLOAD = BODY.pack(*HONEST) + ENTRY.pack(1.0, 30, 0) + ENTRY.pack(1.1, 10, 4) + ROOM.pack(9)


def check_bounded(record: Record) -> None:
    counts = (
        record.load.prefill_tokens, record.load.decode_requests, record.load.decode_kv_tokens,
        record.waiting_requests, record.waiting_tokens,
    )  # fmt: skip
    assert all(0 <= count <= MAX_COUNT for count in counts)
    assert abs(record.at_s) <= MAX_TIME_S
    for time_s in (record.oldest_s, record.ready_s, record.latency_s):
        assert math.isnan(time_s) or abs(time_s) <= MAX_TIME_S
    assert len(record.waiting) <= MAX_ENTRIES


def test_the_honest_record_is_read() -> None:
    record = decode(PAYLOAD)
    assert record.rooms == (9,)
    assert [w.new_tokens for w in record.waiting] == [30, 10]


@given(st.binary(max_size=SLOT_BYTES))
def test_any_bytes_are_a_bounded_record_or_refused(raw: bytes) -> None:
    for payload in (raw, PAYLOAD[:40] + raw, PAYLOAD + raw):
        try:
            check_bounded(decode(payload))
        except RingError:
            continue


@given(st.binary(max_size=SLOT_BYTES))
def test_any_bytes_of_a_slot_are_bounded_records_or_refused(raw: bytes) -> None:
    for payload in (raw, PAYLOAD + raw, PAYLOAD + PAYLOAD[:40] + raw):
        try:
            for record in decode_run(payload)[0]:
                check_bounded(record)
        except RingError:
            continue


def ring(path: Path, **info: Any) -> RingWriter:
    return RingWriter(path, path.with_suffix(".bell"), info, slots=8)


def test_a_poisoned_slot_is_skipped_and_the_next_is_read(tmp_path: Path) -> None:
    """With a checksum that fits, as a faulty engine would write it."""
    writer = ring(tmp_path / "a.ring")
    reader = RingReader(tmp_path / "a.ring")
    poisons = [b"", b"x", PAYLOAD[:-1], b"\xff" * len(PAYLOAD), b"\0" * 200]
    body = list(HONEST)
    odd = ((6, math.inf), (8, NAN), (7, -5), (11, 2**62), (0, 9), (3, 999), (14, -1e300))
    for place, value in odd:
        poisons.append(
            BODY.pack(*[*body[:place], value, *body[place + 1 :]]) + PAYLOAD[BODY.size :]
        )
    for poison in poisons:
        head = writer._head
        writer.write(HONEST, (1.0, 30, 0, 1.1, 10, 4), (9,))
        offset = HEADER_BYTES + head % 8 * SLOT_BYTES
        GUARD.pack_into(writer._memory, offset + 8, checksum(poison), len(poison))
        writer._memory[offset + PAYLOAD_OFFSET : offset + PAYLOAD_OFFSET + len(poison)] = poison
        writer.write(HONEST, (1.0, 30, 0, 1.1, 10, 4), (9,))
        assert [record.rooms for record in reader.drain()] == [(9,)]
    assert reader.torn == len(poisons)
    GUARD.pack_into(writer._memory, HEADER_BYTES + 8, 0, 2**32 - 1)
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (2, 0),
        (2, 1),
        (2, 2**32 - 1),
        (3, 0),
        (3, 7),
        (3, 2**32 - 4),
        (7, 0),
        (7, 2**32 - 1),
        (7, 4000),
    ],
)
def test_a_header_that_points_beyond_the_file_is_refused(
    tmp_path: Path, field: int, value: int
) -> None:
    path = tmp_path / "a.ring"
    writer = ring(path)
    header = list(HEADER.unpack_from(writer._memory, 0))
    header[field] = value
    HEADER.pack_into(writer._memory, 0, *header)
    with pytest.raises(RingError, match=r"no ring|says of itself"):
        RingReader(path)
    writer.close()


@pytest.mark.parametrize(
    "info", [b"", b"[]", b"{", b"[" * 3000, b'{"tp_size": 1e400}', b'{"a": NaN}', b"\xff" * 9,
             b'{"a": %s}' % (b"9" * 400), b'{"a": ' * 500 + b"1" + b"}" * 500],
)  # fmt: skip
def test_what_an_engine_says_of_itself_is_bounded(tmp_path: Path, info: bytes) -> None:
    path = tmp_path / "a.ring"
    raw = bytearray(HEADER_BYTES + 8 * SLOT_BYTES)
    HEADER.pack_into(raw, 0, MAGIC, VERSION, 8, SLOT_BYTES, 1, 1, 1.0, len(info))
    raw[INFO_OFFSET : INFO_OFFSET + len(info)] = info
    path.write_bytes(raw)
    with pytest.raises(RingError, match=r"no ring|says of itself"):
        RingReader(path)


def test_a_head_that_jumps_is_no_endless_loop(tmp_path: Path) -> None:
    writer = ring(tmp_path / "a.ring", role="decode")
    reader = RingReader(tmp_path / "a.ring")
    for head in (2**63, 2**64 - 1, 0, 5):
        struct.pack_into("=Q", writer._memory, HEAD_OFFSET, head)
        assert reader.drain() == []
    reader.close()
    writer.close()


def test_a_ring_that_is_cut_short_kills_nobody(tmp_path: Path) -> None:
    """Whoever reads beyond the end of a file that is mapped is killed by the kernel."""
    path = tmp_path / "a.ring"
    writer = ring(path, role="decode")
    reader = RingReader(path)
    writer.write(HONEST, (1.0, 30, 0, 1.1, 10, 4), (9,))
    os.truncate(path, 0)
    assert reader.drain() == []
    assert reader.replaced()
    with pytest.raises(RingError, match="too short"):
        RingReader(path)
    reader.close()


@pytest.mark.slow
def test_a_million_damaged_records_are_refused_or_bounded() -> None:
    randoms, read = random.Random(10), 0
    for _ in range(1_000_000):
        raw = bytearray(PAYLOAD)
        for _ in range(randoms.randrange(1, 4)):
            raw[randoms.randrange(len(raw))] = randoms.randrange(256)
        if not randoms.randrange(8):
            del raw[randoms.randrange(len(raw)) :]
        try:
            record = decode(bytes(raw))
        except RingError:
            continue
        read += 1
        check_bounded(record)
    assert read > 1000


@pytest.mark.parametrize(
    "text",
    [
        "[slo]\nttft_ms = " + "9" * 400,
        "[slo]\nttft_ms = " + "9" * 5000,
        "[slo]\nttft_ms = 0x" + "f" * 5000,
        "[slo]\nttft_ms = inf",
        "[slo]\nitl_ms = nan",
        "[slo]\nitl_ms = 1e300",
        "[router]\nmax_in_flight = 0x" + "f" * 5000,
        "[router]\ntimeout_s = 1e300",
        "[router]\nadmin_port = 70000",
        "[agent]\nidle_tick_s = inf",
        "[engine]\ntable_mhz = [1e300]",
        "[launch]\nmodel_path = 'x'\nunified = 1\ngpus = [" + "9" * 30 + "]",
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{a=" * 5000 + "1" + "}" * 5000,
        "#" * (1 << 21),
        "\x00",
    ],
    ids=lambda text: text[:30] + text[-4:],
)  # fmt: skip
def test_a_configuration_of_odd_numbers_is_one_line_of_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_config(path)
    assert len(str(error.value)) < 7000
    assert json.dumps(str(error.value))


def test_a_table_of_the_router_is_read_as_carefully(tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    for text in ("a = " + "[" * 5000, "a = " + "9" * 5000, "router = 5"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            table_of(path, "router")
