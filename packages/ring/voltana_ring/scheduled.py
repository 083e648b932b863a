"""What a scheduler says of a batch as it is launched: facts, of which readers make the records.

An engine's process must not work out what its agent can: hooks run on code and data that are in no
cache by then, so that each line costs. A moment tells how many rows the batch has, the sum of the
tokens in their caches, and by itself only what differs from the batch before: requests that came,
ended, run and are left out of it, whose prompts are computed with it, or that wait. It stands for
itself: what is computed follows from it alone, whatever of the ring was read before. What became of
requests follows from the moments since they came; a reader that comes late looks through those that
the ring still keeps.

A moment is one record of a slot, `Kind.SCHEDULED`, its rows behind it, a run behind that. Where
rows do not fit, slots with `Told.MORE` hold them, before the one that they belong to.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEDULED = struct.Struct("=BB6xQdQdddqqqq")
"""`Kind.SCHEDULED`, flags of `Told`; the number of the iteration that is launched (0: none is), and
when; that of the one whose result is there (0: none), and when that was; the time of both clocks,
the monotonic one and the wall's, when requests were looked at; rows of the batch, tokens that it
computes, tokens that its rows but new ones had in their caches before; requests that wait (all of
them; where they are as they were, their rows are not told again). Rows follow, one behind the
other, each with its `Row` in front."""

ARRIVED = struct.Struct("=BB6xqd72s")
"""A request that is there: whether its KV cache comes from another instance; its name, unique in a
ring; its arrival by the wall's clock; its id, cut, which tells by which number routers know it."""

NEW = struct.Struct("=BB2xIIIqd72s")
"""A request that is there, and whose prompt this batch computes a part of: flags of `Part`; tokens
computed now and before, tokens of all that it knows; its name, arrival and id."""

ENDED = struct.Struct("=BB2xIq")
"""A request that has ended: whether it was to have more tokens, those that it had, its name."""

OUT = struct.Struct("=B7xq")
"""A request that runs, and that this batch computes nothing of: its name."""

PROMPT = struct.Struct("=BB2xIIIq")
"""A prompt that this batch computes a part of: flags of `Part`; tokens computed now and before,
tokens of all that the request knows; its name."""

QUEUED = struct.Struct("=B3xII4xq")
"""One of the first requests that wait: tokens of all that it knows, and those computed; its name.
"""


class Row(enum.IntEnum):
    """What a row of a moment tells; no number of `voltana_ring.layout.Kind`."""

    ARRIVED = 16
    NEW = 17
    ENDED = 18
    OUT = 19
    PROMPT = 20
    QUEUED = 21


ROWS = {
    int(Row.ARRIVED): ARRIVED,
    int(Row.NEW): NEW,
    int(Row.ENDED): ENDED,
    int(Row.OUT): OUT,
    int(Row.PROMPT): PROMPT,
    int(Row.QUEUED): QUEUED,
}
"""How each lies; all are words of 8 bytes, for a run may lie behind them."""


def pieces(rows: bytes, most: int) -> Iterator[bytes]:
    """Rows in pieces of at most so many bytes."""
    begin = at = 0
    while at < len(rows):
        size = ROWS[rows[at]].size
        if at + size - begin > most:
            yield rows[begin:at]
            begin = at
        at += size
    yield rows[begin:]


NAME_PREFIX = "voltana-"
"""What ids of requests begin with that our router has sent."""


class Told(enum.IntFlag):
    """Properties of a moment.

    SPECULATIVE: an iteration may produce more than one token a request. IDLE: nothing runs. MORE:
    only rows, those that the next has no place for.
    """

    SPECULATIVE = 1
    IDLE = 2
    MORE = 4


class Part(enum.IntFlag):
    """Properties of a prompt.

    CHUNK: it is not complete with this batch. NEW: it was never scheduled before. REMOTE: its KV
    cache comes from another instance.
    """

    CHUNK = 1
    NEW = 2
    REMOTE = 4
