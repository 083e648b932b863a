"""The agent's end of a ring: reads the records that an engine wrote, none of them torn."""

from __future__ import annotations

import json
import mmap
import os
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from voltana.cluster.queueing import Waiting
from voltana.errors import VoltanaError
from voltana.serving.bounds import check_facts
from voltana.values import Load
from voltana_ring.layout import (
    BODY,
    CHANGE,
    COUNTS,
    ENTRY,
    GUARD,
    GUARD_OFFSET,
    HEAD_OFFSET,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    PAYLOAD_OFFSET,
    ROOM,
    VERSION,
    Change,
    Flag,
    Kind,
)
from voltana_ring.liveness import is_held
from voltana_ring.paths import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

_ATTEMPTS = 3

MAX_SLOTS = 65_536
MAX_SLOT_BYTES = 65_536
MAX_COUNT = 2**40
MAX_TIME_S = 1e10
"""A ring is a file that another program writes: numbers beyond these are no measurements."""


_KINDS = frozenset(map(int, Kind))
_CHANGES = frozenset(map(int, Change))
_FLAGS = int(Flag.SPECULATIVE | Flag.CUT)


class RingError(VoltanaError):
    """A file that is no ring, or one of another version."""


class Changed(NamedTuple):
    """What became of a request.

    Attributes:
        name: Names it in its ring.
        at_s: When it was.
        what: What it was.
        tokens: Tokens to compute of one that waits; of one that has ended those that it had.
    """

    name: int
    at_s: float
    what: Change
    tokens: int


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: What it tells.
        iteration: Number of the iteration in its engine process; in a record of changes, how many
            changes were told before.
        at_s: When it was written; all times are on the host's monotonic clock.
        load: What the iteration computes.
        flags: Further properties.
        waiting_requests: Requests that wait behind it.
        waiting_tokens: Their tokens.
        oldest_s: Arrival of the request that waits longest, those of the batch included; nan where
            there is none.
        launch_s: When the iteration was launched.
        ready_s: When its result was there; nan before.
        latency_s: Its time on the device, without that of the iteration before; nan before.
        waiting: The first of those that wait, in the engine's order.
        rooms: Bootstrap rooms of requests that were taken up with it.
        changes: What became of requests.
    """

    kind: Kind
    iteration: int
    at_s: float
    load: Load
    flags: Flag
    waiting_requests: int
    waiting_tokens: int
    oldest_s: float
    launch_s: float
    ready_s: float
    latency_s: float
    waiting: tuple[Waiting, ...]
    rooms: tuple[int, ...]
    changes: tuple[Changed, ...] = ()


class RingReader:
    """Reads one ring; never disturbs its writer.

    Args:
        path: The ring's file.
        from_start: Whether to begin with the oldest record that is kept, not with the next one.

    Attributes:
        path: See above.
        info: What the engine says of itself.
        pid: Process id of the writer, as its own container counts.
        lost: Slots that were overwritten before they were read; each holds the records of a moment.
        torn: Slots that were being written in every attempt, or hold none, and were skipped.

    Raises:
        RingError: If the file is no ring of this version.
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._open()
        except BaseException:
            os.close(self._handle)
            raise
        self._words = memoryview(self._memory).cast("Q")
        self._next = 0 if from_start else self._head()
        self.lost = 0
        self.torn = 0

    def drain(self, newest: int | None = None) -> list[Record]:
        """Every record since the last call, in order.

        Args:
            newest: Read no more than so many, and leave out what is older; None reads all.
        """
        if not self._is_whole():
            return []
        head = self._head()
        # The slot that comes next may be under the writer's pen already.
        most = self._slots - 1 if newest is None else min(newest, self._slots - 1)
        if head - self._next > most:
            oldest = head - most
            self.lost += oldest - self._next
            self._next = oldest
        records = []
        while self._next < head:
            found = self._slot(self._next)
            self._next += 1
            self.torn += not found
            records += found
        return records

    @property
    def position(self) -> int:
        """Number of the slot that comes next."""
        return self._next

    @property
    def identity(self) -> str:
        """Names this ring among all that its file name had."""
        return f"{self._inode}.{self.epoch}"

    def go_back(self, position: int) -> None:
        """Read on from an earlier slot; those that were overwritten count as lost."""
        self._next = min(max(position, 0), self._next)

    def replaced(self) -> bool:
        """Whether the engine is gone, or has begun another ring under this name."""
        try:
            same = os.stat(self.path).st_ino == self._inode  # noqa: PTH116
        except FileNotFoundError:
            return True
        return not same or not is_held(self._handle) or not self._is_whole()

    def close(self) -> None:
        """Let go of the memory; may be called twice."""
        self._words.release()
        self._memory.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        found = os.fstat(self._handle)
        if found.st_size < HEADER_BYTES:
            raise RingError(f"{self.path} is no ring: too short. Remove it.")
        self._inode = found.st_ino
        self._memory = mmap.mmap(self._handle, found.st_size, prot=mmap.PROT_READ)
        header = HEADER.unpack_from(self._memory, 0)
        if header[:2] != (MAGIC, VERSION):
            self._memory.close()
            raise RingError(
                f"{self.path} is no ring of version {VERSION}: plugin and agent are of different "
                "versions. Install the same version of voltana for both, and restart them."
            )
        _, _, self._slots, self._slot_bytes, self.pid, self.epoch, _, length = header
        try:
            self._refuse_impossible(found.st_size, length)
            self.info = _info(self._memory[INFO_OFFSET : INFO_OFFSET + length])
        except RingError:
            self._memory.close()
            raise

    def _refuse_impossible(self, file_bytes: int, info_bytes: int) -> None:
        """Check the sizes of the header against the file.

        Raises:
            RingError: If they do not fit each other.
        """
        slot_bytes = self._slot_bytes
        room = slot_bytes % 8 == 0 and PAYLOAD_OFFSET + BODY.size <= slot_bytes <= MAX_SLOT_BYTES
        fits = (
            0 < self._slots <= MAX_SLOTS and HEADER_BYTES + self._slots * slot_bytes == file_bytes
        )
        if not (room and fits and info_bytes <= HEADER_BYTES - INFO_OFFSET):
            raise RingError(
                f"{self.path} is no ring: {self._slots} slots of {slot_bytes} bytes and "
                f"{info_bytes} bytes of JSON in {file_bytes} bytes. Remove it, and restart the "
                "engine."
            )

    def _is_whole(self) -> bool:
        """Whether the file is as long as it was.

        The kernel kills who reads memory beyond the end of its file, and a writer can cut it short.
        """
        return os.fstat(self._handle).st_size >= len(self._memory)

    def _head(self) -> int:
        return int(self._words[HEAD_OFFSET >> 3])

    def _slot(self, number: int) -> list[Record]:
        """The records of a slot; none if it is torn, was overwritten, or one of them is none."""
        payload = self._payload(number)
        try:
            return [] if payload is None else decode_slot(payload)
        except RingError:
            return []

    def _payload(self, number: int) -> bytes | None:
        """The records of a slot; None if it is torn or was overwritten."""
        offset = HEADER_BYTES + number % self._slots * self._slot_bytes
        for _ in range(_ATTEMPTS):
            if self._words[offset >> 3] != 2 * number + 2:
                continue
            checksum, length = GUARD.unpack_from(self._memory, offset + GUARD_OFFSET)
            if length > self._slot_bytes - PAYLOAD_OFFSET:
                continue
            payload = self._memory[offset + PAYLOAD_OFFSET : offset + PAYLOAD_OFFSET + length]
            if self._words[offset >> 3] == 2 * number + 2 and zlib.crc32(payload) == checksum:
                return payload
        return None


def _info(text: bytes) -> dict[str, Any]:
    """What an engine says of itself.

    Raises:
        RingError: If it is no JSON object, or a number in it is none to compute with.
    """
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise RingError("what the engine says of itself is no JSON object. Restart the engine.")
    try:
        check_facts("what the engine says of itself", info)
    except ValueError as error:
        raise RingError(f"{error}. Restart the engine.") from None
    return info


def decode_slot(payload: bytes) -> list[Record]:
    """Read the records of a slot, one behind the other.

    Raises:
        RingError: If one of them is none that a writer makes.
    """
    records, at = [], 0
    while at < len(payload):
        kind, entries, rooms = COUNTS.unpack_from(payload.ljust(at + COUNTS.size), at)
        row = CHANGE.size if kind == Kind.CHANGES else ENTRY.size
        end = at + BODY.size + entries * row + rooms * ROOM.size
        records.append(decode(payload[at:end]))
        at = end
    return records


def decode(payload: bytes) -> Record:
    """Read one record.

    Raises:
        RingError: If it is none that a writer makes: its size, its kind or a number is impossible.
    """
    if len(payload) < BODY.size:
        raise RingError(f"a record of {len(payload)} bytes")
    fields = BODY.unpack_from(payload)
    kind, _, flags, entries, rooms, iteration, at_s, prefill, pairs, requests, kv = fields[:11]
    waiting, waiting_tokens, oldest_s, launch_s, ready_s, latency_s = fields[11:]
    tells_changes = kind == Kind.CHANGES
    queue_at = BODY.size
    rooms_at = queue_at + entries * (CHANGE.size if tells_changes else ENTRY.size)
    end = rooms_at + rooms * ROOM.size
    counts = (prefill, pairs, requests, kv, waiting, waiting_tokens)
    times_s = (oldest_s, launch_s, ready_s, latency_s)
    possible = (
        len(payload) == end
        and kind in _KINDS
        and all(0 <= count <= MAX_COUNT for count in counts)
        and abs(at_s) <= MAX_TIME_S
        and not any(abs(time_s) > MAX_TIME_S for time_s in times_s)  # nan where there is none
    )
    if not possible:
        raise RingError(f"a record of kind {kind} with {entries} entries, {counts}, {times_s}")
    return Record(
        kind=Kind(kind),
        iteration=iteration,
        at_s=at_s,
        load=Load(
            prefill_tokens=prefill,
            prefill_attended_pairs=pairs,
            decode_requests=requests,
            decode_kv_tokens=kv,
        ),
        flags=Flag(flags & _FLAGS),
        waiting_requests=waiting,
        waiting_tokens=waiting_tokens,
        oldest_s=oldest_s,
        launch_s=launch_s,
        ready_s=ready_s,
        latency_s=latency_s,
        waiting=()
        if tells_changes
        else tuple(
            Waiting(*e)
            for e in ENTRY.iter_unpack(payload[queue_at:rooms_at])
            if not abs(e[0]) > MAX_TIME_S
        ),
        rooms=tuple(room for (room,) in ROOM.iter_unpack(payload[rooms_at:end])),
        changes=_changes(payload[queue_at:rooms_at]) if tells_changes else (),
    )


def _changes(raw: bytes) -> tuple[Changed, ...]:
    """Read changes.

    Raises:
        RingError: If one is none that a writer tells.
    """
    found = []
    for name, at_s, what, tokens in CHANGE.iter_unpack(raw):
        if what not in _CHANGES or not abs(at_s) <= MAX_TIME_S:
            raise RingError(f"a change of kind {what} at {at_s}")
        found.append(Changed(name, at_s, Change(what), tokens))
    return tuple(found)


def find_rings(folder: Path, instance: str) -> list[Path]:
    """Files of the rings of an instance, in order of their ranks' names."""
    return sorted(folder.glob(f"{instance}@*{SUFFIX}"))
