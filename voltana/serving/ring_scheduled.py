"""Moments that an engine's scheduler told, decoded from the bytes of a slot."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from voltana.serving.ring_records import MAX_COUNT, MAX_TIME_S, RingError
from voltana_ring.scheduled import ARRIVED, ENDED, OUT, PROMPT, QUEUED, ROWS, SCHEDULED, Told

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
    _, flags, *rest = SCHEDULED.unpack_from(payload)
    sizes, values = rest[: len(ROWS)], rest[len(ROWS) :]
    end = SCHEDULED.size + sum(sizes)
    if end > len(payload) or any(size % row.size for size, row in zip(sizes, ROWS, strict=True)):
        raise RingError(f"a moment of {len(payload)} bytes, rows of {sizes} bytes")
    bounds = itertools.pairwise(itertools.accumulate(sizes, initial=SCHEDULED.size))
    arrived, ended, out, prompts, queued = (
        row.iter_unpack(payload[begin:stop])
        for (begin, stop), row in zip(bounds, (ARRIVED, ENDED, OUT, PROMPT, QUEUED), strict=True)
    )
    made = Scheduled._make((
        Told(flags & int(Told.SPECULATIVE | Told.IDLE | Told.MORE)),
        *values,
        tuple(Arrived(name & WORD, *more) for name, *more in arrived),
        tuple(Ended(name & WORD, *more) for name, *more in ended),
        tuple(name & WORD for (name,) in out),
        tuple(Prompt(name & WORD, *more) for name, *more in prompts),
        tuple(Queued(name & WORD, *more) for name, *more in queued),
    ))  # fmt: skip
    refuse_impossible(made)
    return made, payload[end:]


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
