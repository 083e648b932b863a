from __future__ import annotations

import errno
import math
import mmap
import os
import resource
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.serving.ring_reader import RingReader, find_rings
from voltana.serving.ring_records import RingError
from voltana_ring.bell import open_bell
from voltana_ring.layout import (
    HEADER_BYTES,
    MAX_ENTRIES,
    MAX_ROOMS,
    SLOT_BYTES,
    SLOTS,
    Flag,
    Kind,
)
from voltana_ring.paths import make_folder
from voltana_ring.writer import RingWriter

BODY = (Kind.LAUNCHED, 2, 0, 0, 0, 7, 1.5, 0, 0.0, 3, 900, 2, 40, 1.25, 1.5, math.nan, math.nan)


def body(iteration, entries=0, rooms=0, flags=0):
    fields = list(BODY)
    fields[2:6] = flags, entries, rooms, iteration
    fields[10] = 3 * iteration  # KV tokens tell whether a record is of one piece
    fields[12] = 5 * iteration
    return fields


@pytest.fixture
def make_ring(tmp_path):
    writers = []

    def make(slots=8, name="i@dp0.pp0.tp0.ring"):
        writers.append(RingWriter(tmp_path / name, tmp_path / "i.bell", {"role": "x"}, slots=slots))
        return writers[-1], RingReader(writers[-1].path)

    yield make
    for writer in writers:
        writer.close()


@given(
    iteration=st.integers(0, 2**62),
    entries=st.lists(
        st.tuples(st.floats(0, 1e9), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
        max_size=MAX_ENTRIES,
    ),
    rooms=st.lists(st.integers(0, 2**64 - 1), max_size=MAX_ROOMS),
    flags=st.sampled_from([0, 1, 2, 3]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, iteration, entries, rooms, flags):
    folder = tmp_path_factory.mktemp("ring")
    writer = RingWriter(folder / "a.ring", folder / "a.bell", {}, slots=4)
    reader = RingReader(writer.path)
    fields = list(BODY)
    fields[2:6] = flags, len(entries), len(rooms), iteration
    writer.write(fields, [number for entry in entries for number in entry], rooms)
    (record,) = reader.drain()
    assert (record.iteration, record.kind, record.flags) == (iteration, Kind.LAUNCHED, Flag(flags))
    assert [tuple(waiting) for waiting in record.waiting] == entries
    assert list(record.rooms) == rooms
    assert (record.load.decode_requests, record.load.decode_kv_tokens) == (3, 900)
    assert (record.waiting_requests, record.waiting_tokens, record.oldest_s) == (2, 40, 1.25)
    writer.close()


def test_records_come_in_order_and_what_was_overwritten_is_counted(make_ring):
    writer, reader = make_ring(slots=8)
    for number in range(5):
        writer.write(body(number))
    assert [record.iteration for record in reader.drain()] == [0, 1, 2, 3, 4]
    for number in range(5, 25):
        writer.write(body(number))
    assert [record.iteration for record in reader.drain()] == list(range(18, 25))
    assert (reader.lost, reader.torn) == (13, 0)
    assert reader.drain() == []


def test_a_reader_that_comes_late_begins_with_the_next_record(make_ring):
    writer, _ = make_ring()
    writer.write(body(1))
    late, early = RingReader(writer.path), RingReader(writer.path, from_start=True)
    writer.write(body(2))
    assert [record.iteration for record in late.drain()] == [2]
    assert [record.iteration for record in early.drain()] == [1, 2]


@given(offset=st.integers(0, SLOT_BYTES - 1), change=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_slot_is_never_read_as_something_else(tmp_path_factory, offset, change):
    """Whatever byte of a slot is another one than was written, as in a torn read."""
    folder = tmp_path_factory.mktemp("ring")
    writer = RingWriter(folder / "a.ring", folder / "a.bell", {}, slots=4)
    reader = RingReader(writer.path)
    writer.write(body(11, entries=1, rooms=1), (1.0, 2, 3), (4,))
    (good,) = RingReader(writer.path, from_start=True).drain()
    with writer.path.open("r+b") as file:
        file.seek(HEADER_BYTES + offset)
        byte = file.read(1)[0]
        file.seek(HEADER_BYTES + offset)
        file.write(bytes([byte ^ change]))
    records = reader.drain()
    assert records == [] or repr(records) == repr([good])  # behind the payload nothing is lost
    assert len(records) + reader.torn == 1
    writer.close()


def test_a_slot_that_is_being_written_is_not_read(make_ring):
    writer, reader = make_ring()
    writer.write(body(1))
    writer._words[HEADER_BYTES >> 3] = 3  # the writer has begun the next round
    assert reader.drain() == []
    assert reader.torn == 1


def test_a_reader_in_another_process_sees_only_whole_records(tmp_path):
    """A writer that overwrites a small ring as fast as it can, read at the same time."""
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_plugin_ring import body
        from voltana_ring.writer import RingWriter
        folder = Path(sys.argv[1])
        writer = RingWriter(folder / "a.ring", folder / "a.bell", {}, slots=4)
        ends = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < ends:
            number += 1
            count = number % 41
            numbers = [x for _ in range(count) for x in (float(number), number % 2**32, count)]
            writer.write(body(number, entries=count, rooms=1), numbers, (number,))
        time.sleep(0.5)
        print(number)
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), os.path.dirname(__file__)],  # noqa: PTH120
        stdout=subprocess.PIPE,
        text=True,
    )
    path = tmp_path / "a.ring"
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.01)
    reader, seen = RingReader(path), []
    while child.poll() is None and not (seen and seen[-1] == -1):
        for record in reader.drain():
            number = record.iteration
            assert record.load.decode_kv_tokens == 3 * number
            assert record.waiting_tokens == 5 * number
            assert record.rooms == (number,)
            assert len(record.waiting) == number % 41
            assert all(w.new_tokens == number % 2**32 for w in record.waiting)
            seen.append(number)
    written = int(child.communicate()[0])
    assert written > 1000
    assert seen == sorted(set(seen))
    assert len(seen) > 10  # few where both processes share a core
    assert len(seen) + reader.lost + reader.torn <= written


def test_a_ring_is_replaced_when_the_engine_begins_another_or_ends(make_ring, tmp_path):
    writer, reader = make_ring()
    assert not reader.replaced()
    _, second = make_ring()
    assert reader.replaced()
    assert not second.replaced()
    code = (
        "import sys; from pathlib import Path; from voltana_ring.writer import RingWriter;"
        f"f = Path({str(tmp_path)!r}); RingWriter(f / 'b.ring', f / 'b.bell', {{}}, slots=2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert RingReader(tmp_path / "b.ring").replaced()
    writer.close()


def test_a_ring_in_whose_place_another_appears_is_known_to_have_a_writer(make_ring, tmp_path):
    (tmp_path / "linked.ring").symlink_to(tmp_path / "i@dp0.pp0.tp0.ring")
    first, _ = make_ring(name="i@dp0.pp0.tp0.ring")
    assert not first.ousts
    linked, _ = make_ring(name="linked.ring")  # a link is nobody's ring, and is not followed
    assert not linked.ousts
    assert not linked.path.is_symlink()
    second, _ = make_ring(name="i@dp0.pp0.tp0.ring")
    assert second.ousts
    second.close()
    third, _ = make_ring(name="i@dp0.pp0.tp0.ring")
    assert not third.ousts


def test_what_an_engine_says_of_itself_may_not_reach_into_the_first_slot(tmp_path):
    with pytest.raises(ValueError, match=r"has 3585 bytes: must be at most 3584"):
        RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {"model": "m" * 3572})
    assert not list(tmp_path.iterdir())
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {"model": "m" * 3571})
    assert RingReader(writer.path).info["model"] == "m" * 3571
    writer.close()


def test_files_that_are_no_rings_are_refused_by_name(tmp_path):
    path = tmp_path / "a.ring"
    path.write_bytes(b"short")
    with pytest.raises(RingError, match="too short"):
        RingReader(path)
    path.write_bytes(bytes(HEADER_BYTES))
    with pytest.raises(RingError, match="same version of voltana"):
        RingReader(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, make):
    path = tmp_path / "a.ring"
    make(path)
    with pytest.raises(RingError, match=r"a\.ring is no ring: must be a file"):
        RingReader(path)


def test_the_bell_wakes_a_reader_and_never_blocks_the_writer(make_ring, tmp_path):
    writer, _ = make_ring()
    bell = open_bell(tmp_path / "i.bell")
    writer.ring()
    assert os.read(bell, 16) == b"\x01"
    for _ in range(100_000):  # more than a pipe holds
        writer.ring()
    assert os.read(bell, 16)
    os.close(bell)
    (tmp_path / "file.bell").touch()
    with pytest.raises(FileExistsError, match="not a FIFO"):
        open_bell(tmp_path / "file.bell")


def test_files_are_private_and_a_folder_that_others_may_write_to_is_refused(make_ring, tmp_path):
    writer, _ = make_ring()
    for path in (writer.path, tmp_path / "i.bell"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_folder(tmp_path / "new" / "deep")
    assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match=r"agent\.rings .* chmod 700"):
        make_folder(tmp_path / "open")


def test_rings_of_an_instance_are_not_those_of_one_with_a_longer_name(make_ring, tmp_path):
    make_ring(name="i@dp0.pp0.tp0.ring")
    make_ring(name="i@dp1.pp0.tp1.ring")
    make_ring(name="i-2@dp0.pp0.tp0.ring")
    names = [path.name for path in find_rings(tmp_path, "i")]
    assert names == ["i@dp0.pp0.tp0.ring", "i@dp1.pp0.tp1.ring"]


def test_the_memory_of_a_ring_is_there_from_the_beginning(make_ring):
    """A full file system must refuse the ring, not end the engine with SIGBUS at a write."""
    writer, _ = make_ring(slots=64)
    found = writer.path.stat()
    assert found.st_blocks * 512 >= found.st_size == HEADER_BYTES + 64 * SLOT_BYTES


def test_without_memory_for_a_ring_nothing_is_left_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No space left"):
        RingWriter(tmp_path / "i@dp0.ring", tmp_path / "i.bell", {})
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_what_an_engine_of_the_same_process_id_left_behind_is_no_obstacle(make_ring, tmp_path):
    """In containers process ids repeat, and an engine may die at any moment."""
    (tmp_path / f"i@dp0.pp0.tp0.{os.getpid()}.new").write_bytes(b"half a ring")
    writer, reader = make_ring()
    writer.write(body(1))
    assert len(reader.drain()) == 1


def test_an_engine_that_closes_late_leaves_the_ring_of_the_next_one_alone(make_ring):
    first, _ = make_ring()
    second, reader = make_ring()
    first.close()
    assert second.path.exists()
    assert not reader.replaced()


def test_files_that_are_no_rings_leave_nothing_open(tmp_path):
    (tmp_path / "i@dp0.ring").write_bytes(b"VOLTRING" + b"\xff" * HEADER_BYTES)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(RingError):
            RingReader(tmp_path / "i@dp0.ring")
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory")
def test_no_record_of_the_first_lap_costs_its_engine_a_page_fault():
    """Each page would, and a fault takes longer than the records in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        writer = RingWriter(Path(folder, "a.ring"), Path(folder, "a.bell"), {})
        writer.write(BODY)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(SLOTS - 1):
            writer.write(BODY)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        writer.close()
    assert faults < SLOTS * SLOT_BYTES // mmap.PAGESIZE // 4  # other threads have some
