"""Records of a ring: what an engine tells of its iterations, decoded from the bytes of a slot."""

from __future__ import annotations

from typing import NamedTuple

from voltana.cluster.queueing import Waiting
from voltana.errors import VoltanaError
from voltana.values import Load
from voltana_ring.layout import BODY, CHANGE, COUNTS, ENTRY, ROOM, RUN, Change, Flag, Kind

MAX_COUNT = 2**40
MAX_TIME_S = 1e10
"""A ring is a file that another program writes: numbers beyond these are no measurements."""

_KINDS = frozenset(map(int, Kind)) - {int(Kind.RUN), int(Kind.SCHEDULED)}
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


def decode_run(payload: bytes) -> tuple[list[Record], bytes]:
    """The records of a slot, and the beginning of the run behind them; empty where there is none.

    Raises:
        RingError: If one of them is none that a writer makes.
    """
    records: list[Record] = []
    at = 0
    while at < len(payload):
        kind, entries, rooms = COUNTS.unpack_from(payload.ljust(at + COUNTS.size), at)
        if kind == Kind.RUN and len(payload) - at == RUN.size:
            return records, payload[at:]
        row = CHANGE.size if kind == Kind.CHANGES else ENTRY.size
        end = at + BODY.size + entries * row + rooms * ROOM.size
        records.append(decode(payload[at:end]))
        at = end
    return records, b""


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
