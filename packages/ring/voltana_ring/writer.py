"""The engine's end of a ring: writes records into shared memory, and rings a bell."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
from typing import TYPE_CHECKING, Any

from voltana_ring.bell import open_bell
from voltana_ring.layout import (
    HEAD_OFFSET,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    MAX_INFO,
    MAX_PAYLOAD,
    PAIR_WORDS,
    PAYLOAD_OFFSET,
    SLOT_BYTES,
    SLOTS,
    VERSION,
    checksum,
    packed,
    packed_changes,
)
from voltana_ring.liveness import hold, is_held_at, let_go

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HEAD_WORD = HEAD_OFFSET >> 3


class _Sealed(dict[int, struct.Struct]):
    """A slot by the bytes of its records: sequence number, guard, records. There are few sizes."""

    def __missing__(self, size: int) -> struct.Struct:
        if size > MAX_PAYLOAD:  # it would be written into the next slot
            raise ValueError(f"a slot of {size} bytes: must be at most {MAX_PAYLOAD}")
        made = self[size] = struct.Struct(f"=QII{size}s")
        return made


_SEALED = _Sealed()


class RingWriter:
    """One writer of one ring; one thread may use it.

    The file appears under its name once it is complete, in place of one of an earlier engine. It is
    locked for as long as this process lives: that is how readers tell a living writer.

    Args:
        path: The ring's file, on a file system in memory.
        bell: The FIFO that wakes the reader; made if it is missing.
        info: What readers should know of the engine, as JSON values.
        slots: Records that are kept.

    Attributes:
        path: See above.
        times: Its memory as numbers of 8 bytes, for the pairs of a run.
        ousts: Whether an engine that lives still writes to the ring in whose place it appeared.

    Raises:
        OSError: If the files cannot be made.
        ValueError: If `info` is longer than its place.
    """

    def __init__(
        self, path: Path, bell: Path, info: Mapping[str, Any], *, slots: int = SLOTS
    ) -> None:
        text = json.dumps(dict(info)).encode()
        if len(text) > MAX_INFO:  # it would be written into the first slot
            raise ValueError(
                f"what the engine says of itself has {len(text)} bytes: must be at most {MAX_INFO}"
            )
        self.path = path
        self._slots = slots
        self._head = 0
        temporary = path.with_suffix(f".{os.getpid()}.new")
        self._memory = _allocate(temporary, HEADER_BYTES + slots * SLOT_BYTES)
        self._bell = self._lock = -1
        try:
            self._bell = open_bell(bell)
            self._lock = hold(temporary)
        except OSError:
            if self._bell >= 0:
                os.close(self._bell)
            self._memory.close()
            temporary.unlink()
            raise
        self._inode = os.fstat(self._lock).st_ino
        HEADER.pack_into(
            self._memory, 0, MAGIC, VERSION, slots, SLOT_BYTES, os.getpid(), time.time_ns(),
            time.monotonic(), len(text),
        )  # fmt: skip
        self._memory[INFO_OFFSET : INFO_OFFSET + len(text)] = text
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("Q")
        self.times = memoryview(self._memory).cast("d")
        self._run_ends = 0
        self.ousts = is_held_at(path)
        temporary.rename(path)

    def write(
        self,
        body: Sequence[Any],
        entries: Sequence[float] = (),
        rooms: Sequence[int] = (),
    ) -> None:
        """Write a slot of one record; see `voltana_ring.layout.packed`."""
        self.put(packed(body, entries, rooms))

    def write_changes(
        self, body: Sequence[Any], changes: Sequence[tuple[int, float, int, int]]
    ) -> None:
        """Write a slot of one record of changes; see `voltana_ring.layout.packed_changes`."""
        self.put(packed_changes(body, changes))

    def put(self, payload: bytes) -> None:
        """Write the next slot: mark it as being written, fill and seal it, count it; never blocks.

        Args:
            payload: One record or more, one behind the other; at most `MAX_PAYLOAD` bytes.
        """
        head, size = self._head, len(payload)
        offset = HEADER_BYTES + head % self._slots * SLOT_BYTES
        self._words[offset >> 3] = 2 * head + 1
        self._head = head = head + 1
        _SEALED[size].pack_into(self._bytes, offset, 2 * head, checksum(payload), size, payload)
        self._words[_HEAD_WORD] = head

    def begin_run(self, payload: bytes) -> tuple[int, int]:
        """Write the next slot, and begin a run behind its records; see `layout.RUN`.

        Whoever writes a pair into `times` stores zeros in the place of the next first, and ends the
        run before anything else is written.

        Args:
            payload: Records, and `RUN` behind them.

        Returns:
            Where the first pair goes, and where there is no place for one and the next any more.
        """
        words, begins = self._words, (HEADER_BYTES + self._head % self._slots * SLOT_BYTES) >> 3
        first = begins + (PAYLOAD_OFFSET + len(payload) >> 3)
        self._run_ends = ends = begins + (SLOT_BYTES >> 3) - 1
        words[begins] = 2 * self._head + 1  # it is being written
        words[first] = words[first + 1] = words[ends] = 0
        self.put(payload)
        return first, ends - (ends - first) % PAIR_WORDS - PAIR_WORDS

    def end_run(self, pairs: int) -> None:
        """Say how many pairs the last run has."""
        self._words[self._run_ends] = pairs + 1

    def ring(self) -> None:
        """Wake the reader, if there is one; never blocks."""
        try:
            os.write(self._bell, b"\x01")
        except BlockingIOError:  # nobody listens, or it has enough to do
            return

    def close(self) -> None:
        """Let go of the memory and remove the file; may be called twice."""
        if self._bell < 0:
            return
        os.close(self._bell)
        self._bell = -1
        for view in (self._words, self.times, self._bytes):
            view.release()
        self._memory.close()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # not that of the engine after this one
                self.path.unlink()
        let_go(self._lock)


def _allocate(path: Path, size: int) -> mmap.mmap:
    """A new file in memory, all of it there: a store into a page that cannot be had is a SIGBUS.

    It is all in the tables of this process as well: else each page costs the engine a fault.

    Raises:
        OSError: If there is no room for it; nothing is left behind.
    """
    path.unlink(missing_ok=True)  # process ids repeat in containers, and engines are killed
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
        return mmap.mmap(handle, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)
