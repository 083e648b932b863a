"""Moments that an engine's scheduler told, decoded from the bytes of a slot."""

from __future__ import annotations

from typing import Any, NamedTuple

from voltana.serving.ring_records import MAX_COUNT, MAX_TIME_S, RingError
from voltana_ring.scheduled import ROWS, SCHEDULED, Part, Row, Told

_LISTED = Row.ARRIVED, Row.ENDED, Row.OUT, Row.PROMPT, Row.QUEUED
"""In the order of the fields of `Scheduled`."""

WORD = 0xFFFFFFFFFFFFFFFF
"""Names of requests as records have them are without a sign."""


class Arrived(NamedTuple):
    """A request that is there; see `voltana_ring.scheduled.ARRIVED`."""

    name: int
    arrival_s: float
    remote: int
    rid: bytes


class Ended(NamedTuple):
    """A request that has ended; see `voltana_ring.scheduled.ENDED`."""

    name: int
    aborted: int
    tokens: int


class Prompt(NamedTuple):
    """A prompt that is computed; see `voltana_ring.scheduled.PROMPT`."""

    name: int
    tokens: int
    before: int
    size: int
    flags: int


class Queued(NamedTuple):
    """A request that waits; see `voltana_ring.scheduled.QUEUED`."""

    name: int
    size: int
    computed: int


class Scheduled(NamedTuple):
    """A moment; see `voltana_ring.scheduled.SCHEDULED`."""

    flags: Told
    iteration: int
    launch_s: float
    ready: int
    ready_s: float
    now_s: float
    wall_s: float
    rows: int
    tokens: int
    computed: int
    waiting: int
    arrived: tuple[Arrived, ...]
    ended: tuple[Ended, ...]
    out: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    queued: tuple[Queued, ...]


def decode_scheduled(payload: bytes) -> tuple[Scheduled, bytes]:
    """Read a moment, and what is behind it.

    Raises:
        RingError: If it is none that a writer makes.
    """
    if len(payload) < SCHEDULED.size:
        raise RingError(f"a moment of {len(payload)} bytes")
    _, flags, *values = SCHEDULED.unpack_from(payload)
    rows: dict[int, list[Any]] = {kind: [] for kind in ROWS}
    at = SCHEDULED.size
    while at < len(payload) and (row := ROWS.get(payload[at])) is not None:
        if at + row.size > len(payload):
            raise RingError(f"a moment of {len(payload)} bytes, cut in a row at {at}")
        kind, *fields = row.unpack_from(payload, at)
        _add_row(rows, kind, fields)
        at += row.size
    made = Scheduled._make((
        Told(flags & int(Told.SPECULATIVE | Told.IDLE | Told.MORE)),
        *values,
        *(tuple(rows[kind]) for kind in _LISTED),
    ))  # fmt: skip
    refuse_impossible(made)
    return made, payload[at:]


def _add_row(rows: dict[int, list[Any]], kind: int, fields: list[Any]) -> None:
    """Add what a row tells to those of its kind; one that is new to those of two."""
    match kind, fields:
        case Row.ARRIVED, [remote, name, arrival_s, rid]:
            rows[kind].append(Arrived(name & WORD, arrival_s, remote, rid))
        case Row.NEW, [flags, tokens, before, size, name, arrival_s, rid]:
            rows[Row.ARRIVED].append(Arrived(name & WORD, arrival_s, flags & Part.REMOTE, rid))
            rows[Row.PROMPT].append(Prompt(name & WORD, tokens, before, size, flags))
        case Row.ENDED, [aborted, tokens, name]:
            rows[kind].append(Ended(name & WORD, aborted, tokens))
        case Row.OUT, [name]:
            rows[kind].append(name & WORD)
        case Row.PROMPT, [flags, tokens, before, size, name]:
            rows[kind].append(Prompt(name & WORD, tokens, before, size, flags))
        case Row.QUEUED, [size, computed, name]:
            rows[kind].append(Queued(name & WORD, size, computed))


def refuse_impossible(told: Scheduled) -> None:
    """Check the numbers of a moment.

    Raises:
        RingError: If one is none that a scheduler can say.
    """
    times_s = told.launch_s, told.ready_s, told.now_s
    counts = told.iteration, told.ready, told.rows, told.tokens, told.computed, told.waiting
    computed = sum(prompt.tokens for prompt in told.prompts)
    possible = (
        all(0.0 <= time_s <= MAX_TIME_S for time_s in times_s)
        and all(0 <= count <= MAX_COUNT for count in counts)
        and (told.flags & Told.MORE or len(told.prompts) <= told.rows <= told.tokens)
        and (told.flags & Told.MORE or computed <= told.tokens)
    )
    if not possible:
        raise RingError(f"a moment of {counts} at {times_s}")
