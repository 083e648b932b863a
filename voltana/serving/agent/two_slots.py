"""A small file that is replaced in place and survives a kill at any moment.

There are two slots, each with a number and a checksum; the older one is written over. A process
that is killed loses at most the write under way: what was handed to the kernel stays. `sync` is for
the machine that loses power.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from typing import TYPE_CHECKING

from voltana.errors import VoltanaError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"voltana-slots-2\n"
SLOT_BYTES = 1 << 20
"""Room for as many requests and open decisions as are followed at all, at hundreds of clocks."""

_INTENT = struct.Struct("<qI")
_INTENTS = 64
"""Bytes between two intents; the first of them follows the magic."""

_HEADER = struct.Struct("<QII")
_FIRST = 4096


class DamagedError(VoltanaError):
    """A file whose slots are both unreadable, or that is none of ours."""


class HeldError(VoltanaError):
    """A file that another process keeps."""


class TwoSlots:
    """One file of two slots and an intent; one process at a time may have it.

    Args:
        path: The file; made with its folder if it does not exist.

    Raises:
        HeldError: If another process has it.
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._number = 0
        try:
            # Goes with the process, however that ends.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self.close()
            raise HeldError(
                f"{path} is kept by another agent: there must be one for each instance and state "
                "folder. Stop the other one, or give this one another agent.state."
            ) from None
        if os.fstat(self._file).st_size == 0:
            os.pwrite(self._file, MAGIC, 0)

    def read(self) -> bytes | None:
        """What was written last; None in a new file.

        Raises:
            DamagedError: If there is something, and nothing of it can be read.
        """
        if os.pread(self._file, len(MAGIC), 0) != MAGIC:
            raise DamagedError(f"{self.path} is no state of a guarantee")
        slots = [self._slot(which) for which in (0, 1)]
        found = [slot for slot in slots if slot is not None]
        if not found:
            if os.fstat(self._file).st_size > _FIRST:
                raise DamagedError(f"{self.path} is damaged")
            return None
        self._number, text = max(found)
        return text

    def write(self, text: bytes) -> None:
        """Put `text` in the place of the older slot.

        Raises:
            OSError: If it cannot be written.
        """
        if len(text) > SLOT_BYTES - _HEADER.size:
            raise OSError(f"{self.path}: {len(text)} bytes are more than a slot holds")
        number = self._number + 1
        raw = _HEADER.pack(number, len(text), zlib.crc32(text, number & 0xFFFFFFFF)) + text
        self._put(raw, _FIRST + number % 2 * SLOT_BYTES)
        # Only now: what failed is written to the same slot again, and never over the whole one.
        self._number = number

    def intend(self, number: int, place: int = 0) -> None:
        """Note what is about to be done.

        Args:
            number: It counts on with everything that is done.
            place: Which of several counts; each is a number of its own.

        Raises:
            OSError: If it cannot be written.
        """
        self._put(
            _INTENT.pack(number, zlib.crc32(number.to_bytes(8, "little"))), _INTENTS * (1 + place)
        )

    def intent(self, place: int = 0) -> int | None:
        """What was noted last; None if nothing was."""
        raw = os.pread(self._file, _INTENT.size, _INTENTS * (1 + place))
        if len(raw) < _INTENT.size:
            return None
        number, guard = _INTENT.unpack(raw)
        valid = number >= 0 and guard == zlib.crc32(number.to_bytes(8, "little"))
        return number if valid and guard else None

    def sync(self) -> None:
        """Have it on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, raw: bytes, at: int) -> None:
        """Write all of it; a disk that is almost full takes a part and says no more than that."""
        if os.pwrite(self._file, raw, at) != len(raw):
            raise OSError(f"{self.path}: there was no room for all of it")

    def _slot(self, which: int) -> tuple[int, bytes] | None:
        raw = os.pread(self._file, SLOT_BYTES, _FIRST + which * SLOT_BYTES)
        if len(raw) < _HEADER.size:
            return None
        number, length, guard = _HEADER.unpack_from(raw)
        text = raw[_HEADER.size : _HEADER.size + length]
        if not number or len(text) != length or number % 2 != which:
            return None
        return (number, text) if zlib.crc32(text, number & 0xFFFFFFFF) == guard else None
