"""What is asked of a GPU and what came of it, between who keeps leases and who drives it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from voltana_actuatord.daemon.page import ClockState


class Wish(NamedTuple):
    """A clock, or the default clocks.

    Attributes:
        clock_mhz: The clock; None for the default ones.
        ticket: Handed back with the result.
        forced: Whether to reset also where nothing of ours is set, as an operator may ask.
    """

    clock_mhz: float | None
    ticket: int = -1
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a wish.

    Attributes:
        device: UUID of the GPU.
        wish: The wish.
        clock_mhz: Clock read back after settling.
        explained: Whether a clock other than the one wished for has a reason of its own.
        note: That reason, or why the wish failed.
        failed: Whether the wish came to nothing; the GPU may then be in any state.
        state: What is known of the clock setting now.
    """

    device: str
    wish: Wish
    clock_mhz: float = math.nan
    explained: bool = True
    note: str = ""
    failed: bool = False
    state: ClockState = ClockState.LOCKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator lays down for a GPU.

    Attributes:
        foreign_allowed: Whether to lock it where somebody else has set a clock.
        baseline_mhz: Clock at which the operator wants it when nobody has a lease; None for its
            default clocks.
    """

    foreign_allowed: bool = True
    baseline_mhz: float | None = None


class Inbox(Protocol):
    """Where wishes come from; the latest one counts."""

    def waiting(self, seconds: float | None) -> bool:
        """Wait so long for a wish or the end; whether there is one."""
        ...

    def take(self) -> Wish | None:
        """The latest wish; None at the end."""
        ...


_FOREIGN = "another tool has set the clock of"


def is_foreign(text: str) -> bool:
    """Whether a note or a refusal says that somebody else has set a clock."""
    return _FOREIGN in text


def foreign_text(label: str) -> str:
    """What to do about a clock that somebody else has set."""
    return (
        f"{_FOREIGN} {label} (nvidia-smi -lgc or -ac, DCGM, another "
        "daemon). Take that setting back, or allow it by foreign_clocks and [[baseline]] in the "
        "daemon's configuration."
    )
