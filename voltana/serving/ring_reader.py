"""The agent's end of a ring: reads the records that an engine wrote, none of them torn."""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from typing import TYPE_CHECKING, Any

from voltana.serving.bounds import check_facts
from voltana.serving.ring_account import RingAccount
from voltana.serving.ring_records import RingError, decode_run
from voltana.serving.ring_run import LEAST_WAIT_S, MOST_WAIT_S, Run
from voltana.serving.ring_scheduled import decode_scheduled
from voltana_ring.layout import (
    BODY,
    GUARD,
    GUARD_OFFSET,
    HEAD_OFFSET,
    HEADER,
    HEADER_BYTES,
    INFO_OFFSET,
    MAGIC,
    MAX_INFO,
    MOST_PAIRS,
    PAYLOAD_OFFSET,
    RUN,
    VERSION,
    Kind,
    checksum,
)
from voltana_ring.liveness import is_held
from voltana_ring.paths import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.ring_records import Record

_ATTEMPTS = 3
_SCHEDULED = bytes([Kind.SCHEDULED])

MOST_AHEAD = 2
"""Moments before one whose launches may have no result by then, where batches repeat."""

MOMENTS = MOST_PAIRS + 1
"""Of one slot, at most."""

MAX_SLOTS = 65_536
MAX_SLOT_BYTES = 65_536


class RingReader:
    """Reads one ring; never disturbs its writer.

    Args:
        path: The ring's file.
        from_start: Whether to begin with the oldest record that is kept, not with the next one.

    Attributes:
        path: See above.
        info: What the engine says of itself.
        pid: Process id of the writer, as its own container counts.
        lost: Moments that were overwritten before they were read: slots, and pairs of a run.
        torn: Slots that were being written in every attempt, or hold none, and were skipped.

    Raises:
        RingError: If the file is no ring of this version.
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self.path = path
        # Whoever may write to the folder can put anything there, and a FIFO would be waited for.
        self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._open()
        except BaseException:
            os.close(self._handle)
            raise
        self._words = memoryview(self._memory).cast("Q")
        self._times = memoryview(self._memory).cast("d")
        self._next = 0 if from_start else self._head()
        self._taken = 0  # moments of that slot that were told
        self._run: Run | None = None
        self._looks: int | None = None  # for what comes behind a run; None: it is there
        self.lost = 0
        self.torn = 0
        self._account = RingAccount()
        if not from_start:
            self._join_run()

    def drain(self, newest: int | None = None) -> list[Record]:
        """Every record since the last call, in order.

        Args:
            newest: Tell no more than so many moments, and leave out what is older; None tells as
                many as the ring has slots.
        """
        if not self._is_whole():
            return []
        head = self._head()
        # The slot that comes next may be under the writer's pen already.
        most = self._slots - 1 if newest is None else min(newest, self._slots - 1)
        if head - self._next > most:
            oldest = head - most
            self.lost += oldest - self._next
            self._begin(oldest)
            self._account.miss()
        moments: list[list[Record]] = []
        while self._next < head:
            if self._run is None:
                self._looks = None
                self._read_slot(moments)
            if self._run is not None:
                if not self._follow(self._run, moments, head):
                    break
                self._looks = 0
            self._begin(self._next + 1)
        left_out = max(len(moments) - most, 0)
        self.lost += left_out
        return [record for moment in moments[left_out:] for record in moment]

    @property
    def position(self) -> int:
        """Grows with each moment that is told: slots, and moments of the one that is read now."""
        return self._next * MOMENTS + self._taken

    @property
    def identity(self) -> str:
        """Names this ring among all that its file name had."""
        return f"{self._inode}.{self.epoch}"

    def wait_s(self, now_s: float) -> float:
        """How long to wait for what no bell rings for; inf without such.

        That is the next pair of a run, and the slot behind one that has just ended, which was
        written a moment later.
        """
        if self._run is not None:
            return self._run.wait_s(now_s)
        if self._looks is None:
            return math.inf
        self._looks += 1
        return float(min(LEAST_WAIT_S * 2.0**self._looks, MOST_WAIT_S))

    def go_back(self, position: int, told: int | None = None) -> None:
        """Read on from an earlier moment; those that were overwritten count as lost.

        Args:
            position: Of that moment.
            told: Changes of requests that were told before it, as far as they are numbered here.
        """
        self._begin(*divmod(min(max(position, 0), self.position), MOMENTS))
        self._look_back()
        if told is not None:
            self._account.told = told

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
        self._times.release()
        self._memory.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        found = os.fstat(self._handle)
        if not stat.S_ISREG(found.st_mode):
            raise RingError(f"{self.path} is no ring: must be a file. Remove it.")
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
        if not (room and fits and info_bytes <= MAX_INFO):
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

    def _begin(self, slot: int, taken: int = 0) -> None:
        """Go to a slot of which so many moments were told."""
        self._next, self._taken, self._run = slot, taken, None

    def _join_run(self) -> None:
        """Begin with what comes next of a run that is under way."""
        if self._next > 0:
            self._begin(self._next - 1)
            self._look_back()
            told: list[list[Record]] = []
            self._read_slot(told)
            if self._run is None or self._follow(self._run, told, self._next + 1):
                self._begin(self._next + 1)
            self.torn = 0

    def _look_back(self) -> None:
        """Learn of the requests that are there, from what is kept of the moments before this one.

        Nothing of it is told. Times matter of those alone whose results may be told next.
        """
        self._account = RingAccount()
        slot, taken, torn = self._next, self._taken, self.torn
        for number in range(max(0, self._head() - self._slots + 1), slot):
            payload = self._payload(number)
            if payload is not None and payload[:1] != _SCHEDULED:
                break  # its writer makes all records itself
            self._begin(number)
            self._read_slot([])
            if self._run is not None and number >= slot - MOST_AHEAD:
                self._follow(self._run, [], slot)
            elif self._run is not None and (told := self._words[self._run.last]) > 1:
                self._account.decoded(self._run.ready_s(self._times, told - 2))
        self._begin(slot, taken)
        if taken:
            self._read_slot([])
        self.torn = torn

    def _read_slot(self, moments: list[list[Record]]) -> None:
        """Read the records of a slot, and find its run, if it has one."""
        payload, records, run = self._payload(self._next), None, b""
        try:
            if payload is not None:
                records, run = self._records(payload)
            if run and payload and records is not None:
                words = self._slot_bytes >> 3
                first = (HEADER_BYTES >> 3) + self._next % self._slots * words
                place = first + (PAYLOAD_OFFSET + len(payload) >> 3), first + words - 1
                self._run = Run(records, RUN.unpack(run), *place)
        except (RingError, ValueError):
            records = None
        if records is None:
            self.torn += 1
            self._account.miss()
            return
        if self._run is None:
            if records:
                moments.append(records)
            return
        taken, self._taken = self._taken, max(self._taken, 1)
        if not taken:
            moments.append(records)
        elif taken > 1:  # told before this reader began
            for pair in self._run.take(self._times, taken - 1):
                self._account.follow(pair)

    def _records(self, payload: bytes) -> tuple[list[Record] | None, bytes]:
        """The records of a slot, and the beginning of its run.

        Raises:
            RingError: If it is none that a writer makes.
        """
        if payload[:1] != _SCHEDULED:
            records, run = decode_run(payload)
            return records or None, run
        told, run = decode_scheduled(payload)
        if run and (len(run) != RUN.size or run[0] != Kind.RUN):
            raise RingError(f"a moment with {len(run)} bytes behind it")
        return self._account.take(told), run

    def _follow(self, run: Run, moments: list[list[Record]], head: int) -> bool:
        """Tell what has come of a run; whether it has ended."""
        sequence = HEADER_BYTES + self._next % self._slots * self._slot_bytes >> 3
        for _ in range(_ATTEMPTS):
            ended = self._words[run.last]
            told = run.take(self._times, ended - 1 if ended else None)
            if self._words[sequence] != 2 * self._next + 2:
                break
            moments += told
            for pair in told:
                self._account.follow(pair)
            self._taken += len(told)
            if ended and run.pairs >= ended - 1:
                return True
            if self._next == head - 1:
                return False
        self.torn += 1
        return True

    def _payload(self, number: int) -> bytes | None:
        """The records of a slot; None if it is torn or was overwritten."""
        offset = HEADER_BYTES + number % self._slots * self._slot_bytes
        for _ in range(_ATTEMPTS):
            if self._words[offset >> 3] != 2 * number + 2:
                continue
            guard, length = GUARD.unpack_from(self._memory, offset + GUARD_OFFSET)
            if length > self._slot_bytes - PAYLOAD_OFFSET:
                continue
            payload = self._memory[offset + PAYLOAD_OFFSET : offset + PAYLOAD_OFFSET + length]
            if self._words[offset >> 3] == 2 * number + 2 and checksum(payload) == guard:
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


def find_rings(folder: Path, instance: str) -> list[Path]:
    """Files of the rings of an instance, in order of their ranks' names."""
    return sorted(folder.glob(f"{instance}@*{SUFFIX}"))
