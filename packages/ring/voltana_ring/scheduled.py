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

from voltana_ring.layout import RUN

SCHEDULED = struct.Struct("=BB2xIIIIIQdQdddqqqq")
"""`Kind.SCHEDULED`, flags of `Told`; bytes of the rows `ARRIVED`, `ENDED`, `OUT`, `PROMPT` and
`QUEUED`, which follow in this order; the number of the iteration that is launched (0: none is), and
when; that of the one whose result is there (0: none), and when that was; the time of both clocks,
the monotonic one and the wall's, when requests were looked at; rows of the batch, tokens that it
computes, tokens that its rows but new ones had in their caches before; requests that wait (all of
them; where they are as they were, their rows are not told again)."""

ARRIVED = struct.Struct("=qdQ72s")
"""A request that is there: its name, unique in a ring; its arrival by the wall's clock; whether its
KV cache comes from another instance; its id, cut, which tells by which number routers know it."""

ENDED = struct.Struct("=qII")
"""A request that has ended: its name, whether it was to have more tokens, those that it had."""

OUT = struct.Struct("=q")
"""A request that runs, and that this batch computes nothing of: its name."""

PROMPT = struct.Struct("=qIIII")
"""A prompt that this batch computes a part of: the request's name, tokens computed now and before,
tokens of all that it knows, flags of `Part`."""

QUEUED = struct.Struct("=qII")
"""One of the first requests that wait: its name, tokens of all that it knows, and those computed.
"""

ROWS = (ARRIVED, ENDED, OUT, PROMPT, QUEUED)
"""In the order in which they follow."""


class _Moments(dict[int, struct.Struct]):
    """A moment in one piece, by the bytes of its rows: `SCHEDULED`, these, and what is behind.

    Args:
        behind: Format of what is behind.
    """

    def __init__(self, behind: str) -> None:
        super().__init__()
        self._behind = behind

    def __missing__(self, size: int) -> struct.Struct:
        made = self[size] = struct.Struct(f"{SCHEDULED.format}{size}s{self._behind}")
        return made


MOMENTS = _Moments("")
MOMENTS_WITH_RUN = _Moments(RUN.format[1:])

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
