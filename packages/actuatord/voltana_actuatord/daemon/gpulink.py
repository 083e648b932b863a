"""What worker and process of a GPU tell each other, over the two ends of `linkends`.

A wish is a fixed struct, since it is on the way from a decision to the driver; answers are JSON.
Both ends are ours.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.wishes import Result, Wish

if TYPE_CHECKING:
    from typing import Any

_WISH = struct.Struct("<cqd?14x")
_SET, _EXAMINE = b"W", b"X"

WISHES_BYTES = 128 * _WISH.size
"""As many wishes as are read at once; a pipe takes 4096 bytes or less as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What a GPU's process found before a lease.

    Attributes:
        device: UUID of the GPU.
        clocks_mhz: Clocks that may be set; empty where it was not to be opened.
        refusal: Why it may not be lent; empty if it may.
        transient: Whether that may pass by itself.
        notes: What the operator should know.
        state: What is known of the clock setting.
    """

    device: str
    clocks_mhz: tuple[float, ...] = ()
    refusal: str = ""
    transient: bool = False
    notes: str = ""
    state: ClockState = ClockState.DEFAULT


def encode_wish(wish: Wish) -> bytes:
    """A wish as bytes."""
    clock_mhz = math.nan if wish.clock_mhz is None else wish.clock_mhz
    return _WISH.pack(_SET, wish.ticket, clock_mhz, wish.forced)


EXAMINE = _WISH.pack(_EXAMINE, 0, math.nan, False)


def decode_wishes(data: bytes) -> tuple[Wish | None, bool]:
    """The latest of the wishes in some bytes, if there is one, and whether to examine the GPU."""
    wish, examine = None, False
    for kind, ticket, clock_mhz, forced in _WISH.iter_unpack(data):
        if kind == _SET:
            wish = Wish(clock_mhz if clock_mhz > 0 else None, ticket, forced)
        else:
            examine = True
    return wish, examine


def encode_answer(answer: Result | Examined) -> bytes:
    """What a GPU's process says, as bytes."""
    body: dict[str, Any]
    if isinstance(answer, Examined):
        body = {
            "clocks_mhz": answer.clocks_mhz,
            "refusal": answer.refusal[:600],
            "transient": answer.transient,
            "notes": answer.notes[:600],
        }
    else:
        wish = answer.wish
        body = {
            "wish": [wish.clock_mhz, wish.ticket, wish.forced],
            "clock_mhz": None if math.isnan(answer.clock_mhz) else answer.clock_mhz,
            "explained": answer.explained,
            "note": answer.note[:600],
            "failed": answer.failed,
        }
    return json.dumps(body | {"state": int(answer.state)}).encode()


def decode_answer(device: str, data: bytes) -> Result | Examined:
    """What the process of a GPU said.

    Raises:
        ValueError: If it is nothing that such a process says.
    """
    try:
        body = json.loads(data)
        state = ClockState(body["state"])
        if "wish" not in body:
            return Examined(
                device=device,
                clocks_mhz=tuple(map(float, body["clocks_mhz"])),
                refusal=str(body["refusal"]),
                transient=body["transient"] is True,
                notes=str(body["notes"]),
                state=state,
            )
        clock_mhz, ticket, forced = body["wish"]
        achieved_mhz = body["clock_mhz"]
        return Result(
            device=device,
            wish=Wish(clock_mhz, ticket, forced),
            clock_mhz=math.nan if achieved_mhz is None else float(achieved_mhz),
            explained=body["explained"] is True,
            note=str(body["note"]),
            failed=body["failed"] is True,
            state=state,
        )
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{device}: {error}") from error
