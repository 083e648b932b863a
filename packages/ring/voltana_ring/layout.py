"""Bytes of a ring: how an engine's measurements lie in shared memory.

One writer, any number of readers. A slot holds the records of one moment, one behind the other, and
is guarded twice: by a sequence number that is odd while the slot is being written (a seqlock), and
by a checksum, because Python gives no memory barriers and not every processor keeps the order of
stores. Only the standard library is imported: this runs inside the engine.
"""

from __future__ import annotations

import enum
import struct
from itertools import chain
from typing import TYPE_CHECKING, Any
from zlib import adler32

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"VOLTRING"
VERSION = 10

HEADER_BYTES = 4096
HEADER = struct.Struct("=8sIIIIQdI")
"""Magic, version, slots, bytes of a slot, process id as the writer counts, epoch, creation time,
bytes of the JSON."""

HEAD_OFFSET = 256
"""Where the count of records written lies, on a cache line of its own."""

INFO_OFFSET = 512

MAX_INFO = HEADER_BYTES - INFO_OFFSET
"""Bytes of the JSON."""

SLOTS = 1024
SLOT_BYTES = 3072
"""So that a run is long, and beginning one is rare: it costs what the records of a batch do."""

GUARD = struct.Struct("=II")
"""Checksum (`checksum`) and length of the payload; they follow the sequence number."""

checksum = adler32
"""Reads no table, which would be in no cache when an engine's hooks run."""

GUARD_OFFSET = 8
PAYLOAD_OFFSET = 16

MAX_PAYLOAD = SLOT_BYTES - PAYLOAD_OFFSET
"""Bytes of the records of one slot."""

BODY = struct.Struct("=BBHHHQdqdqqqqdddd")
"""Kind, phase, flags, queue entries, rooms, iteration, time; prefill tokens, attended pairs, decode
requests, their KV tokens; waiting requests, their tokens, oldest arrival; launch, ready, latency.
"""

COUNTS = struct.Struct("=B3xHH")
"""The beginning of a body, which says how long its record is: kind, queue entries, rooms."""

ENTRY = struct.Struct("=dII")
"""A waiting request: arrival, tokens still to be computed, tokens before them."""

ROOM = struct.Struct("=Q")

CHANGE = struct.Struct("=QdII")
"""What became of a request: its name, the time, what, tokens. Names are unique in a ring."""

RUN = struct.Struct("=B7xQdd")
"""The end of the records of a slot that a run lies behind: `Kind.RUN`; the number of the result
that is told next, when its iteration was launched, and when the result before was ready.

A run is pairs of times, as far as the slot has place: when that result was ready, and when the
iteration behind the last one was launched, which decodes the same requests a token later. A pair is
there once both follow those before; in the place of the next is zero, stored first. The last word
of the slot is zero while the run goes on, and the number of its pairs and one once it has ended. No
bell rings for a pair: a reader looks again when the next is likely there."""

PAIR_WORDS = 2
MOST_PAIRS = 8191
"""Of one run, however large slots are."""

MAX_ENTRIES = 40
MAX_ROOMS = 30
"""As many as fit beside the most entries."""

MAX_CHANGES = (MAX_PAYLOAD - BODY.size) // CHANGE.size
"""Of one record; more go into further ones."""


def _rows(row: struct.Struct, most: int) -> tuple[struct.Struct, ...]:
    """So many rows one behind the other, by their number."""
    return tuple(struct.Struct("=" + row.format[1:] * count) for count in range(most + 1))


QUEUES = _rows(ENTRY, MAX_ENTRIES)
ROOMS = _rows(ROOM, MAX_ROOMS)
CHANGES = _rows(CHANGE, MAX_CHANGES)


def packed(body: Sequence[Any], entries: Sequence[float] = (), rooms: Sequence[int] = ()) -> bytes:
    """A record.

    Args:
        body: The fields of `BODY`, in order.
        entries: Those of the queue entries, flat: three for each.
        rooms: Bootstrap rooms.
    """
    payload = BODY.pack(*body)
    if entries:
        payload += QUEUES[len(entries) // 3].pack(*entries)
    if rooms:
        payload += ROOMS[len(rooms)].pack(*rooms)
    return payload


def packed_changes(body: Sequence[Any], changes: Sequence[tuple[int, float, int, int]]) -> bytes:
    """A record of changes, at most `MAX_CHANGES`.

    Args:
        body: See `packed`.
        changes: The fields of `CHANGE` of each.
    """
    return BODY.pack(*body) + CHANGES[len(changes)].pack(*chain.from_iterable(changes))


class Kind(enum.IntEnum):
    """What a record tells.

    LAUNCHED: an iteration is about to run. FINISHED: its result is there. IDLE: nothing runs.
    NAMES: nothing but rooms, those that the next record has no place for. CHANGES: what became of
    requests since the last of these; its entries are changes, its load and queue those of the
    record that follows, and in the place of the iteration stands how many changes came before.
    RUN: no record; a run lies behind those of its slot. SCHEDULED: what a scheduler says of a
    batch, of which readers make all records of its moment; see `voltana_ring.scheduled`.
    """

    LAUNCHED = 1
    FINISHED = 2
    IDLE = 3
    NAMES = 4
    CHANGES = 5
    RUN = 6
    SCHEDULED = 7


class Change(enum.IntEnum):
    """What became of a request, with the time of it and a number of tokens.

    WAITS: it is there, since its arrival. FIRST: it has its first token. JOINED: it decodes from
    the launch of this iteration on. ENDED: it has had its last token then, of so many in all.
    ABORTED: likewise, and it was to have more. GONE: it was aborted before its first token.
    """

    WAITS = 1
    FIRST = 2
    JOINED = 3
    ENDED = 4
    ABORTED = 5
    GONE = 6


class Mode(enum.IntEnum):
    """What an iteration computes."""

    IDLE = 0
    PREFILL = 1
    DECODE = 2
    MIXED = 3


class Flag(enum.IntFlag):
    """Further properties of a record.

    SPECULATIVE: an iteration may produce more than one token a request. CUT: more requests wait
    than there are entries.
    """

    SPECULATIVE = 1
    CUT = 2
